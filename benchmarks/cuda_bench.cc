// Measures the paged engine on a GPU: the engine, its scheduler and the CUDA executor on one
// thread, two steps in flight, no gRPC. Prints one JSON document (bench_support.h).
//
//   cuda_bench --model FOLDER [--dummy] [--dtype bf16|fp32] [--work 1x2/512,8x1024/128] [--repeats
//   3]
//
// Work RxP/N: R requests of P random prompt tokens, submitted at once, each with N new tokens,
// greedy, without the prefix cache. Its figures, medians over repeats:
//   seconds         from the first submit to the last token
//   tokens/s        new tokens over those seconds
//   TTFT ms         to the first token of the request that has its own first
//   ms a token      of one request alone (R = 1): after its first token
// and the start itself: seconds from the weights' load to ready.
//
// --inexact gives up exactness (CudaExecutorOptions::exact); --compare-exactness measures with and
// without it in turns, and tells the ratio of the medians for each work.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/check.h"
#include "worker/device/cuda/cuda_executor.h"
#include "worker/engine/request_engine.h"

namespace quire {
namespace {

// Deadlines and timings play no part here, so time stands still.
constexpr Micros kNow = 0;

struct Work {
  uint32_t requests = 0;
  uint32_t prompt = 0;
  uint32_t new_tokens = 0;
};

struct Settings {
  std::string model;
  bool dummy = false;
  std::string dtype = "bf16";
  std::vector<std::string> work = {"1x2/128"};
  int repeats = 3;
  int threads = 16;
  uint32_t max_num_seqs = 256;
  uint32_t max_num_batched_tokens = 8192;
  uint32_t max_model_len = 2304;
  bool no_graphs = false;
  bool inexact = false;
  bool compare_exactness = false;
};

absl::StatusOr<Work> ParseWork(const std::string& text) {
  Work work;
  if (std::sscanf(text.c_str(), "%ux%u/%u", &work.requests, &work.prompt, &work.new_tokens) != 3 ||
      work.requests == 0 || work.prompt == 0 || work.new_tokens == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--work ", text, ": RxP/N is expected"));
  }
  return work;
}

struct Outcome {
  double seconds = 0;
  double first_token = 0;
  uint64_t tokens = 0;
  uint64_t steps = 0;
};

class CudaBench {
 public:
  CudaBench(std::unique_ptr<CudaExecutor> executor) : executor_(std::move(executor)) {
    const ExecutorLimits& limits = executor_->limits();
    BatchScheduler::Options scheduler;
    scheduler.kv.num_blocks = limits.num_blocks;
    scheduler.kv.block_size = limits.block_size;
    scheduler.kv.enable_prefix_caching = false;
    scheduler.max_num_seqs = limits.num_slots;
    scheduler.max_num_batched_tokens = limits.max_num_batched_tokens;
    scheduler.max_queue = 1u << 16;
    scheduler.kv_bytes_per_token = limits.kv_bytes_per_token;
    engine_ = std::make_unique<RequestEngine>(
        RequestEngine::Options{limits.context_length, limits.vocabulary_size},
        std::make_unique<BatchScheduler>(scheduler));
  }

  Outcome Run(const Work& work, RandomPrompts& prompts) {
    std::vector<EngineRequest> requests(work.requests);
    for (EngineRequest& request : requests) {
      request.key = {0, next_request_++};
      request.prompt = prompts.Next(work.prompt);
      request.max_new_tokens = work.new_tokens;
      request.params.temperature = 0;
    }
    Outcome outcome;
    const Stopwatch watch;
    for (EngineRequest& request : requests) {
      QUIRE_CHECK(engine_->Submit(std::move(request), kNow).ok());
    }
    uint32_t in_flight = 0;
    StepPlan plan;
    StepResult result;
    EngineOutput output;
    while (true) {
      while (in_flight < executor_->limits().max_steps_in_flight && engine_->Plan(kNow, &plan)) {
        Check(executor_->Launch(plan));
        ++in_flight;
      }
      if (in_flight == 0) break;
      Check(executor_->Collect(&result));
      --in_flight;
      ++outcome.steps;
      engine_->Settle(result, kNow);
      engine_->TakeOutput(&output);
      if (outcome.tokens == 0 && !output.tokens.empty()) outcome.first_token = watch.Seconds();
      outcome.tokens += output.tokens.size();
    }
    outcome.seconds = watch.Seconds();
    QUIRE_CHECK(outcome.tokens == uint64_t{work.requests} * work.new_tokens);
    return outcome;
  }

 private:
  static void Check(const absl::Status& status) {
    if (status.ok()) return;
    std::cerr << "cuda_bench: " << status << "\n";
    std::exit(1);
  }

  std::unique_ptr<CudaExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  uint64_t next_request_ = 0;
};

// Of one work, a sample a repeat.
struct Samples {
  std::vector<double> seconds, rates, first, each;

  void Add(const Work& work, const Outcome& outcome) {
    seconds.push_back(outcome.seconds);
    rates.push_back(static_cast<double>(outcome.tokens) / outcome.seconds);
    first.push_back(outcome.first_token * 1000);
    if (work.requests == 1 && work.new_tokens > 1) {
      each.push_back((outcome.seconds - outcome.first_token) * 1000 / (work.new_tokens - 1));
    }
  }
  void Tell(const std::string& name, BenchReport& report) const {
    report.Add(name + " time", "s", seconds);
    report.Add(name + " rate", "tokens/s", rates);
    report.Add(name + " TTFT", "ms", first);
    if (!each.empty()) report.Add(name + " ms a token", "ms", each);
  }
};

absl::StatusOr<std::unique_ptr<CudaExecutor>> MakeExecutor(const Settings& settings,
                                                           const Weights& weights, bool exact,
                                                           const Stopwatch& start) {
  CudaExecutorOptions options;
  options.num_slots = settings.max_num_seqs;
  options.max_num_batched_tokens = settings.max_num_batched_tokens;
  options.context_length = settings.max_model_len;
  options.use_graphs = !settings.no_graphs;
  options.exact = exact;
  return CudaExecutor::Create(options, weights, [&](const std::string& line) {
    std::cerr << absl::StrCat("[", static_cast<int>(start.Seconds() * 1000), " ms] ", line, "\n");
  });
}

// Exact and not, in turns so that what drifts meets both; one executor at a time, since each fills
// the device.
absl::Status CompareExactness(const Settings& settings, const std::vector<Work>& work,
                              const Weights& weights, const Stopwatch& start, BenchReport& report) {
  std::vector<Samples> samples[2];  // [exact][work]
  for (auto& each : samples) each.resize(work.size());
  for (const bool exact : {true, false, true, false}) {
    auto executor = MakeExecutor(settings, weights, exact, start);
    if (!executor.ok()) return executor.status();
    report.Set("gpu", (*executor)->device_name());
    RandomPrompts prompts((*executor)->limits().vocabulary_size, 1);
    CudaBench bench(*std::move(executor));
    for (size_t i = 0; i < work.size(); ++i) {
      for (int repeat = 0; repeat < settings.repeats; ++repeat) {
        samples[exact][i].Add(work[i], bench.Run(work[i], prompts));
      }
      std::cerr << absl::StrCat(exact ? "exact " : "inexact ", settings.work[i], ": ",
                                Median(samples[exact][i].seconds), " s so far\n");
    }
  }
  const auto ratio = [](const std::vector<double>& exact, const std::vector<double>& inexact) {
    return std::vector<double>{Median(exact) / Median(inexact)};
  };
  for (size_t i = 0; i < work.size(); ++i) {
    const std::string& name = settings.work[i];
    const Samples& exact = samples[true][i];
    const Samples& inexact = samples[false][i];
    exact.Tell(name + " exact", report);
    inexact.Tell(name + " inexact", report);
    report.Add(name + " time, exact / inexact", "", ratio(exact.seconds, inexact.seconds));
    report.Add(name + " TTFT, exact / inexact", "", ratio(exact.first, inexact.first));
    if (exact.each.empty()) continue;
    report.Add(name + " ms a token, exact / inexact", "", ratio(exact.each, inexact.each));
  }
  return absl::OkStatus();
}

absl::Status Measure(const Settings& settings) {
  BenchReport report("cuda");
  std::vector<Work> work;
  for (const std::string& text : settings.work) {
    absl::StatusOr<Work> parsed = ParseWork(text);
    if (!parsed.ok()) return parsed.status();
    work.push_back(*parsed);
  }
  const Stopwatch start;
  auto weights =
      BenchEngine::LoadWeights(settings.model, settings.dummy, settings.dtype, settings.threads);
  if (!weights.ok()) return weights.status();
  report.Set("model", settings.model);
  report.Set("dtype", settings.dtype);
  report.Add("load", "s", {start.Seconds()});
  if (settings.compare_exactness) {
    absl::Status status = CompareExactness(settings, work, **weights, start, report);
    if (!status.ok()) return status;
    std::cout << report.document().dump(1) << "\n";
    return absl::OkStatus();
  }
  auto executor = MakeExecutor(settings, **weights, !settings.inexact, start);
  if (!executor.ok()) return executor.status();
  report.Set("gpu", (*executor)->device_name());
  report.Set("exact", !settings.inexact);
  report.Add("start to ready", "s", {start.Seconds()});
  weights->reset();
  RandomPrompts prompts((*executor)->limits().vocabulary_size, 1);
  CudaBench bench(*std::move(executor));
  for (size_t i = 0; i < work.size(); ++i) {
    Samples samples;
    for (int repeat = 0; repeat < settings.repeats; ++repeat) {
      samples.Add(work[i], bench.Run(work[i], prompts));
    }
    samples.Tell(settings.work[i], report);
  }
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the paged engine on a GPU, without gRPC.");
  Settings settings;
  app.add_option("--model", settings.model, "Folder with config.json")->required();
  app.add_flag("--dummy", settings.dummy, "Random weights from the config alone");
  app.add_option("--dtype", settings.dtype, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--work", settings.work, "What to measure, RxP/N each")->delimiter(',');
  app.add_option("--repeats", settings.repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  app.add_option("--threads", settings.threads, "Threads that load the weights");
  app.add_option("--max-num-seqs", settings.max_num_seqs, "Sequences at once");
  app.add_option("--max-num-batched-tokens", settings.max_num_batched_tokens, "Positions a step");
  app.add_option("--max-model-len", settings.max_model_len, "Tokens a sequence");
  app.add_flag("--no-graphs", settings.no_graphs, "Launch every kernel by itself");
  auto* const inexact = app.add_flag("--inexact", settings.inexact, "Give up exactness");
  app.add_flag("--compare-exactness", settings.compare_exactness,
               "Measure exact, inexact, exact, inexact, and tell the ratios")
      ->excludes(inexact);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "cuda_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
