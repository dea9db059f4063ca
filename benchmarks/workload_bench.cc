// Measures the paged engine alone, on the CPU or a GPU: the engine, its scheduler and the device on
// one thread, no gRPC, no prefix cache. Prints one JSON document (bench_support.h).
//
//   workload_bench --model FOLDER [--dummy] [--device cpu|cuda] [--dtype bf16|fp32]
//                  [--work 1x2/512,8x1024/128] [--repeats 3] [--read-gb-per-s B --peak-tflops P]
//
// Work RxP/N: R requests of P random prompt tokens, submitted at once, each with N new tokens,
// greedy. Its figures, each the median over repeats of what a repeat gave:
//   time, rate       from the first submit to the last token; new tokens over that time
//   TTFT             to the first token of the request that has its own first
//   TTFT p50, p99    over requests (R > 1)
//   ms a token       the median of the requests' mean times of a token after the first
//   ITL p50, p99     over every gap between two tokens of a request
//   share            the least time that the steps need (roofline.h) over the time they took; of
//                    one request alone also for its first token and for those after it
// and the start: seconds from the weights' load to ready.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "benchmarks/engine_flags.h"
#include "benchmarks/roofline_flags.h"
#include "benchmarks/workload.h"
#include "worker/model/model_config.h"

namespace quire {
namespace {

// The context's length is rounded up to this many tokens.
constexpr uint64_t kContextStep = 256;

// Of the request before all others, which does not count.
constexpr uint32_t kWarmUpTokens = 16;

struct Settings {
  EngineFlags engine;
  RooflineFlags roofline;
  std::vector<std::string> work = {"1x2/128"};
  int repeats = 3;
};

// What the work needs, but no more than the model takes.
uint32_t ContextFor(const std::vector<Workload>& work, const ModelConfig& config) {
  uint64_t longest = 1;
  for (const Workload& w : work) longest = std::max(longest, w.context_tokens());
  const uint64_t rounded = (longest + kContextStep - 1) / kContextStep * kContextStep;
  return static_cast<uint32_t>(std::min<uint64_t>(rounded, config.max_position_embeddings));
}

void Add(BenchReport& report, const std::string& name, const Workload& work,
         const std::vector<BenchRun>& runs, bool has_roofline) {
  const auto add = [&](const std::string& metric, const std::string& unit, auto value) {
    std::vector<double> samples;
    for (const BenchRun& run : runs) samples.push_back(value(run));
    report.Add(absl::StrCat(name, " ", metric), unit, samples);
  };
  const auto percentile = [](const std::vector<double>& seconds, double percent) {
    return Percentile(seconds, percent) * 1e3;
  };
  add("time", "s", [](const BenchRun& run) { return run.seconds; });
  add("rate", "tokens/s",
      [](const BenchRun& run) { return static_cast<double>(run.num_tokens) / run.seconds; });
  add("TTFT", "ms", [](const BenchRun& run) { return run.first_token * 1e3; });
  if (work.num_requests > 1) {
    add("TTFT p50", "ms", [&](const BenchRun& run) { return percentile(run.ttft, 50); });
    add("TTFT p99", "ms", [&](const BenchRun& run) { return percentile(run.ttft, 99); });
  }
  if (work.new_tokens > 1) {
    add("ms a token", "ms", [&](const BenchRun& run) { return percentile(run.tpot, 50); });
    add("ITL p50", "ms", [&](const BenchRun& run) { return percentile(run.itl, 50); });
    add("ITL p99", "ms", [&](const BenchRun& run) { return percentile(run.itl, 99); });
  }
  if (!has_roofline) return;
  add("share of the roofline", "%",
      [](const BenchRun& run) { return 100 * run.roofline / run.seconds; });
  add("roofline", "tokens/s",
      [](const BenchRun& run) { return static_cast<double>(run.num_tokens) / run.roofline; });
  if (work.num_requests > 1) return;
  add("share, first token", "%",
      [](const BenchRun& run) { return 100 * run.roofline_first_token / run.first_token; });
  if (work.new_tokens > 1) {
    add("share, further tokens", "%", [](const BenchRun& run) {
      return 100 * (run.roofline - run.roofline_first_token) / (run.seconds - run.first_token);
    });
  }
}

absl::Status Measure(const Settings& settings) {
  std::vector<Workload> work;
  for (const std::string& text : settings.work) {
    const absl::StatusOr<Workload> parsed = ParseWorkload(text);
    if (!parsed.ok()) return parsed.status();
    work.push_back(*parsed);
  }
  const auto model = LoadModelDescription(settings.engine.settings().model_folder);
  if (!model.ok()) return model.status();
  BenchReport report("workload");
  const std::optional<DeviceSpeed> speed = settings.roofline.Find(settings.engine);
  const Stopwatch start;
  auto engine = settings.engine.Build(ContextFor(work, model->config), false);
  if (!engine.ok()) return engine.status();
  settings.engine.Describe(*engine, report);
  report.Set("work", absl::StrJoin(settings.work, ","));
  report.Add("start to ready", "s", {start.Seconds()});
  const auto has_roofline = RooflineFlags::Attach(speed, settings.engine, *engine, report);
  if (!has_roofline.ok()) return has_roofline.status();

  RandomPrompts prompts(engine->limits().vocabulary_size, 1);
  engine->Run({{prompts.Next(kWarmUpTokens), kWarmUpTokens}});
  for (size_t i = 0; i < work.size(); ++i) {
    std::vector<BenchRun> runs;
    for (int repeat = 0; repeat < settings.repeats; ++repeat) {
      std::vector<BenchRequest> requests(work[i].num_requests);
      for (BenchRequest& request : requests) {
        request = {prompts.Next(work[i].prompt_tokens), work[i].new_tokens};
      }
      runs.push_back(engine->Run(std::move(requests)));
    }
    Add(report, settings.work[i], work[i], runs, *has_roofline);
  }
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the paged engine alone, without gRPC.");
  Settings settings;
  settings.engine.Declare(app);
  settings.roofline.Declare(app);
  app.add_option("--work", settings.work, "What to measure, RxP/N each")->delimiter(',');
  app.add_option("--repeats", settings.repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "workload_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
