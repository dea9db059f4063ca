#include "benchmarks/engine_flags.h"

#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"

namespace quire {

void EngineFlags::Declare(CLI::App& app) {
  settings_.device = "cpu";
  settings_.dtype = "bf16";
  settings_.max_queue = 1u << 16;
  app.add_option("--model", settings_.model_folder, "Folder with config.json")->required();
  app.add_flag("--dummy", dummy_, "Random weights from the config alone");
  app.add_option("--device", settings_.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--dtype", settings_.dtype, "bf16 or fp32")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--threads", settings_.num_threads,
                 "Threads that compute or, on a GPU, load the weights; 0: one a core")
      ->check(CLI::Range(0, 256));
  app.add_option("--max-num-seqs", settings_.max_num_seqs, "Sequences at once")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-num-batched-tokens", settings_.max_num_batched_tokens,
                 "Positions a step; 0: 512 on a CPU, 8,192 on a GPU");
  app.add_option("--max-model-len", settings_.max_model_len,
                 "Tokens a sequence; 0: what the work needs");
  app.add_option("--tensor-parallel-size", settings_.tensor_parallel_size,
                 "Ranks that share the model")
      ->check(CLI::Range(1, 64));
  app.add_flag("!--no-graphs", settings_.use_graphs, "On a GPU: launch every kernel by itself");
}

absl::StatusOr<BenchEngine> EngineFlags::Build(uint32_t max_model_len,
                                               bool enable_prefix_caching) const {
  EngineSettings settings = settings_;
  settings.load_format = dummy_ ? "dummy" : "auto";
  settings.enable_prefix_caching = enable_prefix_caching;
  if (settings.max_model_len == 0) settings.max_model_len = max_model_len;
  const Stopwatch start;
  return BenchEngine::Build(settings, [&start](const std::string& line) {
    std::cerr << absl::StrCat("[", static_cast<int>(start.Seconds() * 1000), " ms] ", line, "\n");
  });
}

void EngineFlags::Describe(const BenchEngine& engine, BenchReport& report) const {
  report.Set("model", settings_.model_folder);
  report.Set("weights", dummy_ ? "dummy" : "checkpoint");
  report.Set("dtype", settings_.dtype);
  report.Set("device", engine.description());
  report.Set("max_num_seqs", engine.limits().num_slots);
  report.Set("max_num_batched_tokens", engine.limits().max_num_batched_tokens);
  report.Set("max_model_len", engine.limits().context_length);
}

}  // namespace quire
