// Measures the paged engine alone: the engine, its scheduler and the CPU executor on one thread, no
// gRPC. Prints one JSON document (bench_support.h).
//
//   engine_bench --model FOLDER [--dummy] [--dtype bf16|fp32] [--threads 2] [--isa avx512_bf16]
//                [--work batch1,batch32,prompt,sampling] [--repeats 5] [targets]
//
// batch1    one sequence, 16 prompt tokens: decode speed, and the weights' bytes that it so reads
// as a
//           share of the read bandwidth, measured before each repeat on the same threads
// batch32   32 sequences of 128 prompt and 128 new tokens: the decode phase alone, from the step in
//           which the last of them has its first token to the one in which the first ends
// prompt    one prompt of 512 tokens, to its first token
// sampling  temperature 1 and top_p 0.95 against greedy, in turns, at 1 and at 32 sequences
//
// A figure is the median over repeats; those of batch32 are five parts of one run.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "scheduler/check.h"
#include "worker/device/cpu/cpu_executor.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace quire {
namespace {

constexpr uint32_t kManySequences = 32;
constexpr uint32_t kManyPromptTokens = 128;
constexpr uint32_t kManyNewTokens = 128;
constexpr uint32_t kLongPromptTokens = 512;
constexpr uint32_t kShortPromptTokens = 16;

struct Settings {
  std::string model;
  bool dummy = false;
  std::string dtype = "bf16";
  int threads = 2;
  std::string isa;
  std::vector<std::string> work = {"batch1", "batch32", "prompt", "sampling"};
  int repeats = 5;
  uint32_t new_tokens = 48;      // of a batch1 repeat
  uint32_t sampling_steps = 16;  // of a turn
  double min_bandwidth_share = 0;
  double min_batch1_rate = 0;
  double min_batch32_rate = 0;
  double min_prompt_rate = 0;
  double min_sampled_ratio = 0;

  bool Does(const std::string& name) const {
    return std::find(work.begin(), work.end(), name) != work.end();
  }
};

Target AtLeastIfSet(double value) { return value > 0 ? AtLeast(value) : Target{}; }

SamplingParams Sampled() {
  SamplingParams params;
  params.temperature = 1;
  params.top_p = 0.95f;
  return params;
}

class EngineBench {
 public:
  EngineBench(const Settings& settings, uint64_t weight_bytes, BenchEngine& engine,
              BenchReport& report)
      : settings_(settings),
        weight_bytes_(weight_bytes),
        engine_(engine),
        report_(report),
        prompts_(engine.limits().vocabulary_size, 1) {}

  void Run() {
    if (settings_.Does("batch1")) MeasureBatch1();
    if (settings_.Does("batch32")) MeasureBatch32();
    if (settings_.Does("prompt")) MeasurePrompt();
    if (settings_.Does("sampling")) {
      MeasureSampling(1, 4 * settings_.sampling_steps);
      MeasureSampling(kManySequences, settings_.sampling_steps);
    }
  }

 private:
  // Steps until each of the submitted sequences has its first token.
  void RunPrompts(uint32_t num_sequences) {
    // While any is in its prompt a step computes more positions than it brings tokens.
    while (true) {
      QUIRE_CHECK(engine_.Step());
      if (engine_.num_tokens_out() == num_sequences) return;
    }
  }

  // Tokens a second over `steps` steps of pure decoding.
  double DecodeRate(uint32_t num_sequences, uint32_t steps) {
    const Stopwatch watch;
    for (uint32_t i = 0; i < steps; ++i) {
      QUIRE_CHECK(engine_.Step());
      QUIRE_CHECK(engine_.num_positions() == num_sequences);
    }
    return num_sequences * steps / watch.Seconds();
  }

  void MeasureBatch1() {
    ThreadPool pool(settings_.threads);
    const ReadBandwidth bandwidth;
    std::vector<double> rates, bandwidths, shares;
    const double weight_gb = static_cast<double>(weight_bytes_) / 1e9;
    for (int i = 0; i < settings_.repeats; ++i) {
      bandwidths.push_back(bandwidth.Measure(pool));
      engine_.Submit(prompts_.Next(kShortPromptTokens), settings_.new_tokens + 2, Greedy());
      RunPrompts(1);
      rates.push_back(DecodeRate(1, settings_.new_tokens));
      engine_.CancelAll();
      shares.push_back(100 * rates.back() * weight_gb / bandwidths.back());
    }
    report_.Add("read bandwidth", "GB/s", bandwidths);
    report_.Add("batch 1 decode", "tokens/s", rates, AtLeastIfSet(settings_.min_batch1_rate));
    report_.Add("batch 1 share of bandwidth", "%", shares,
                AtLeastIfSet(settings_.min_bandwidth_share));
  }

  void MeasureBatch32() {
    constexpr uint32_t kParts = 5;
    for (uint32_t i = 0; i < kManySequences; ++i) {
      engine_.Submit(prompts_.Next(kManyPromptTokens), kManyNewTokens, Greedy());
    }
    RunPrompts(kManySequences);
    // The first to be served has decoded a little already, one token a step of the others' prompts.
    const uint32_t prompt_steps =
        1 + kManySequences * kManyPromptTokens / engine_.limits().max_num_batched_tokens;
    const uint32_t steps = (kManyNewTokens - prompt_steps - 2) / kParts;
    std::vector<double> rates;
    for (uint32_t part = 0; part < kParts; ++part) {
      rates.push_back(DecodeRate(kManySequences, steps));
    }
    engine_.CancelAll();
    report_.Add("32 sequences decode", "tokens/s", rates, AtLeastIfSet(settings_.min_batch32_rate));
  }

  void MeasurePrompt() {
    std::vector<double> rates;
    for (int i = 0; i < settings_.repeats; ++i) {
      engine_.Submit(prompts_.Next(kLongPromptTokens), 2, Greedy());
      const Stopwatch watch;
      RunPrompts(1);
      rates.push_back(kLongPromptTokens / watch.Seconds());
      engine_.CancelAll();
    }
    report_.Add("prompt of 512", "tokens/s", rates, AtLeastIfSet(settings_.min_prompt_rate));
  }

  void MeasureSampling(uint32_t num_sequences, uint32_t steps) {
    // The same prompts each turn: after the first one they come out of the prefix cache.
    std::vector<std::vector<TokenId>> prompts;
    for (uint32_t i = 0; i < num_sequences; ++i)
      prompts.push_back(prompts_.Next(kManyPromptTokens));
    const auto turn = [&](const SamplingParams& params) {
      for (const std::vector<TokenId>& prompt : prompts) {
        engine_.Submit(prompt, kManyNewTokens + steps, params);
      }
      RunPrompts(num_sequences);
      const double rate = DecodeRate(num_sequences, steps);
      engine_.CancelAll();
      return rate;
    };
    turn(Greedy());
    std::vector<double> greedy, sampled, ratios;
    for (int i = 0; i < settings_.repeats; ++i) {
      greedy.push_back(turn(Greedy()));
      sampled.push_back(turn(Sampled()));
      ratios.push_back(100 * sampled.back() / greedy.back());
    }
    const std::string what =
        std::to_string(num_sequences) + (num_sequences == 1 ? " sequence" : " sequences");
    report_.Add(what + " greedy", "tokens/s", greedy);
    report_.Add(what + " sampled", "tokens/s", sampled);
    report_.Add(what + " sampled / greedy", "%", ratios, AtLeastIfSet(settings_.min_sampled_ratio));
  }

  const Settings& settings_;
  const uint64_t weight_bytes_;
  BenchEngine& engine_;
  BenchReport& report_;
  RandomPrompts prompts_;
};

void AddOptions(CLI::App& app, Settings& settings) {
  app.add_option("--model", settings.model, "Folder with config.json")->required();
  app.add_flag("--dummy", settings.dummy, "Random weights from the config alone");
  app.add_option("--dtype", settings.dtype, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--threads", settings.threads, "Threads that compute")->check(CLI::Range(1, 256));
  app.add_option("--isa", settings.isa,
                 "Instruction-set path; the fastest usable one if not given");
  app.add_option("--work", settings.work, "What to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"batch1", "batch32", "prompt", "sampling"}));
  app.add_option("--repeats", settings.repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  app.add_option("--new-tokens", settings.new_tokens, "Tokens of a batch1 repeat")
      ->check(CLI::Range(1, 1000));
  app.add_option("--sampling-steps", settings.sampling_steps, "Steps of a sampling turn")
      ->check(CLI::Range(1, 100));
  app.add_option("--min-bandwidth-share", settings.min_bandwidth_share, "Target, %");
  app.add_option("--min-batch1-rate", settings.min_batch1_rate, "Target, tokens/s");
  app.add_option("--min-batch32-rate", settings.min_batch32_rate, "Target, tokens/s");
  app.add_option("--min-prompt-rate", settings.min_prompt_rate, "Target, tokens/s");
  app.add_option("--min-sampled-ratio", settings.min_sampled_ratio, "Target, %");
}

absl::StatusOr<std::unique_ptr<CpuExecutor>> MakeExecutor(const Settings& settings) {
  CpuExecutorOptions options;
  options.num_threads = settings.threads;
  options.num_slots = kManySequences;
  options.max_num_batched_tokens = 512;
  options.context_length = 1024;
  options.num_blocks = kManySequences * 1024 / options.block_size;
  if (!settings.isa.empty()) {
    const absl::StatusOr<Isa> isa = ParseIsa(settings.isa);
    if (!isa.ok()) return isa.status();
    options.isa = *isa;
  }
  const absl::StatusOr<ModelDescription> description = LoadModelDescription(settings.model);
  if (!description.ok()) return description.status();
  LoadOptions load;
  load.format = settings.dummy ? LoadFormat::kDummy : LoadFormat::kSafetensors;
  load.dtype = settings.dtype == "fp32" ? DType::kF32 : DType::kBF16;
  load.num_threads = static_cast<uint32_t>(settings.threads);
  auto weights = Weights::Load(settings.model, description->config, load);
  if (!weights.ok()) return weights.status();
  return CpuExecutor::Create(options, *std::move(weights));
}

absl::Status Measure(const Settings& settings) {
  BenchReport report("engine");
  auto executor = MakeExecutor(settings);
  if (!executor.ok()) return executor.status();
  const uint64_t weight_bytes = (*executor)->weight_bytes();
  report.Set("model", settings.model);
  report.Set("weights", settings.dummy ? "dummy" : "checkpoint");
  report.Set("dtype", settings.dtype);
  report.Set("threads", settings.threads);
  report.Set("isa", std::string(IsaName((*executor)->isa())));
  report.Set("weight_bytes", weight_bytes);
  BenchEngine engine(*std::move(executor), /*enable_prefix_caching=*/true);
  EngineBench(settings, weight_bytes, engine, report).Run();
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the paged engine on the CPU, without gRPC.");
  Settings settings;
  AddOptions(app, settings);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "engine_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
