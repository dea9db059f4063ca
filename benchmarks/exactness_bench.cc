// What exactness costs the whole engine on a GPU: the same works with it and with the fastest
// setting that gives it up (CudaExecutorOptions::exact). Prints one JSON document
// (bench_support.h).
//
//   exactness_bench --model FOLDER [--dummy] --device cuda [--work 1x2/512,8x1024/128] [--rounds 2]
//
// A round builds the exact engine, runs every work `repeats` times, and does the same with the
// other: what drifts meets both. Works are RxP/N as in workload_bench. Cost is the median time of
// the exact ones over that of the others, less one.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "benchmarks/engine_flags.h"
#include "benchmarks/workload.h"

namespace quire {
namespace {

// Of the request before all others, which does not count.
constexpr uint32_t kWarmUpTokens = 16;

struct Settings {
  EngineFlags engine;
  std::vector<std::string> work = {"1x2/128"};
  int rounds = 2;
  int repeats = 2;
};

struct Samples {
  std::vector<double> seconds[2];  // [exact]
  std::vector<double> first_token[2];
};

absl::Status RunRound(const Settings& settings, const std::vector<Workload>& work, bool exact,
                      BenchReport& report, std::vector<Samples>* samples) {
  uint64_t context = 1;
  for (const Workload& w : work) context = std::max(context, w.context_tokens());
  EngineFlags flags = settings.engine;
  flags.settings().exact = exact;
  auto engine = flags.Build(static_cast<uint32_t>(context), false);
  if (!engine.ok()) return engine.status();
  flags.Describe(*engine, report);
  // Both see the same prompts.
  RandomPrompts prompts(engine->limits().vocabulary_size, 1);
  engine->Run({{prompts.Next(kWarmUpTokens), kWarmUpTokens}});
  for (size_t i = 0; i < work.size(); ++i) {
    for (int repeat = 0; repeat < settings.repeats; ++repeat) {
      std::vector<BenchRequest> requests(work[i].num_requests);
      for (BenchRequest& request : requests) {
        request = {prompts.Next(work[i].prompt_tokens), work[i].new_tokens};
      }
      const BenchRun run = engine->Run(std::move(requests));
      (*samples)[i].seconds[exact].push_back(run.seconds);
      (*samples)[i].first_token[exact].push_back(run.first_token);
    }
    std::cerr << absl::StrCat(exact ? "exact " : "inexact ", settings.work[i], ": ",
                              (*samples)[i].seconds[exact].back(), " s\n");
  }
  return absl::OkStatus();
}

absl::Status Measure(const Settings& settings) {
  std::vector<Workload> work;
  for (const std::string& text : settings.work) {
    const absl::StatusOr<Workload> parsed = ParseWorkload(text);
    if (!parsed.ok()) return parsed.status();
    work.push_back(*parsed);
  }
  BenchReport report("exactness");
  report.Set("work", absl::StrJoin(settings.work, ","));
  std::vector<Samples> samples(work.size());
  for (int round = 0; round < settings.rounds; ++round) {
    // In turns, who is first too, so that what drifts meets both.
    for (const bool exact : {round % 2 == 0, round % 2 != 0}) {
      absl::Status status = RunRound(settings, work, exact, report, &samples);
      if (!status.ok()) return status;
    }
  }
  for (size_t i = 0; i < work.size(); ++i) {
    const auto add = [&](const std::string& metric, const std::vector<double>(&seconds)[2]) {
      for (const bool exact : {true, false}) {
        report.Add(absl::StrCat(settings.work[i], " ", metric, exact ? ", exact" : ", not exact"),
                   "s", seconds[exact]);
      }
      report.Add(absl::StrCat(settings.work[i], " ", metric, ", cost of exactness"), "%",
                 {100 * (Median(seconds[true]) / Median(seconds[false]) - 1)});
    };
    add("time", samples[i].seconds);
    add("TTFT", samples[i].first_token);
  }
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures what exactness costs on a GPU.");
  Settings settings;
  settings.engine.Declare(app);
  app.add_option("--work", settings.work, "What to measure, RxP/N each")->delimiter(',');
  app.add_option("--rounds", settings.rounds, "Engines of each kind")->check(CLI::Range(1, 100));
  app.add_option("--repeats", settings.repeats, "Runs of a work on each engine")
      ->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "exactness_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
