// Measures how the paged engine uses its KV pool, on the CPU or a GPU. Prints one JSON document
// (bench_support.h).
//
//   kv_bench --model FOLDER [--dummy] [--device cpu|cuda] [--dtype bf16|fp32]
//            [--work memory,prefix] [--repeats 3] [volumes]
//
// memory  Requests of mixed lengths, 1 to --max-model-len tokens in all, into a pool that holds a
//         fraction of them. Over the steps in which some wait for room: KV bytes used / reserved,
//         and how many run at once, against the number that the same memory holds when each
//         reserves the maximum.
// prefix  Groups of requests that share most of their prompt, all submitted at once, with the
//         prefix cache and without, in turns; and requests that share nothing, where the cache
//         only costs. The share of the roofline counts the keys that each request reads, shared or
//         not.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "benchmarks/engine_flags.h"
#include "benchmarks/roofline_flags.h"

namespace quire {
namespace {

constexpr uint32_t kContext = 2048;

struct Settings {
  EngineFlags engine;
  RooflineFlags roofline;
  std::vector<std::string> work = {"memory", "prefix"};
  int repeats = 5;
  // memory
  uint32_t mixed_requests = 64;
  uint32_t mixed_blocks = 1536;
  // prefix: enough to see the effect within seconds on a small model
  uint32_t groups = 8;
  uint32_t group_size = 8;
  uint32_t unshared_groups = 0;
  uint32_t shared_tokens = 512;
  uint32_t own_tokens = 32;
  uint32_t new_tokens = 32;

  bool Does(const std::string& name) const {
    return std::find(work.begin(), work.end(), name) != work.end();
  }
  uint32_t prefix_context() const { return shared_tokens + own_tokens + new_tokens; }
};

absl::Status MeasureMemory(const Settings& settings, BenchReport& report) {
  EngineFlags flags = settings.engine;
  flags.settings().num_gpu_blocks_override = settings.mixed_blocks;
  absl::StatusOr<BenchEngine> engine = flags.Build(kContext, false);
  if (!engine.ok()) return engine.status();
  flags.Describe(*engine, report);
  report.Set("mixed requests", settings.mixed_requests);
  const uint32_t context = engine->limits().context_length;
  const uint32_t block_size = engine->limits().block_size;
  std::mt19937_64 random(7);
  RandomPrompts prompts(engine->limits().vocabulary_size, 7);
  for (uint32_t i = 0; i < settings.mixed_requests; ++i) {
    const auto total = static_cast<uint32_t>(2 + random() % (context - 1));
    const auto prompt = static_cast<uint32_t>(1 + random() % (total - 1));
    engine->Submit(prompts.Next(prompt), total - prompt, Greedy());
  }
  std::vector<double> shares, held;
  uint32_t max_unused_tokens = 0;
  while (engine->Step()) {
    for (const ChoiceFinish& finish : engine->finishes()) {
      max_unused_tokens = std::max(max_unused_tokens, finish.usage.kv_max_unused_tokens);
    }
    const EngineLoad load = engine->load();
    if (load.waiting == 0) continue;
    shares.push_back(100.0 * static_cast<double>(load.kv_used_bytes) /
                     static_cast<double>(load.kv_reserved_bytes));
    held.push_back(load.running);
  }
  if (shares.empty()) {
    return absl::InvalidArgumentError("the pool held every request: give more, or fewer blocks");
  }
  report.Add("KV used / reserved while full", "%", shares, AtLeast(96));
  report.Add("most unused tokens of a sequence", "tokens", {static_cast<double>(max_unused_tokens)},
             AtMost(block_size - 1));
  report.Add("requests held at once", "", held);
  report.Add("held if each reserves the maximum", "",
             {static_cast<double>(settings.mixed_blocks * block_size / context)});
  report.Add("preemptions", "", {static_cast<double>(engine->load().preemptions)});
  return absl::OkStatus();
}

class PrefixBench {
 public:
  PrefixBench(const Settings& settings, bool has_roofline, BenchEngine& engine, BenchReport& report)
      : settings_(settings), has_roofline_(has_roofline), engine_(engine), report_(report) {}

  void Run() {
    const uint32_t unshared =
        settings_.unshared_groups != 0 ? settings_.unshared_groups : settings_.groups;
    Measure(1, false, false, settings_.repeats);  // the first run touches memory anew
    Compare(settings_.groups, true, "shared prompts", {});
    Compare(unshared, false, "nothing shared", AtLeast(99));
  }

 private:
  struct Outcome {
    double tokens_per_s = 0;  // of all requests, prompts included in the time
    double ttft_p50_ms = 0;
    double ttft_p99_ms = 0;
    double hit_percent = 0;
    double roofline_percent = 0;
  };

  Outcome Measure(uint32_t groups, bool shares, bool enable_prefix_caching, uint64_t seed) {
    RandomPrompts prompts(engine_.limits().vocabulary_size, seed);
    std::vector<BenchRequest> requests;
    for (uint32_t group = 0; group < groups; ++group) {
      const std::vector<TokenId> shared = prompts.Next(settings_.shared_tokens);
      for (uint32_t i = 0; i < settings_.group_size; ++i) {
        std::vector<TokenId> prompt = shares ? shared : prompts.Next(settings_.shared_tokens);
        const std::vector<TokenId> own = prompts.Next(settings_.own_tokens);
        prompt.insert(prompt.end(), own.begin(), own.end());
        requests.push_back({std::move(prompt), settings_.new_tokens});
      }
    }
    engine_.Restart(enable_prefix_caching);
    const BenchRun run = engine_.Run(std::move(requests));
    const EngineLoad load = engine_.load();
    Outcome outcome;
    outcome.tokens_per_s = static_cast<double>(run.num_tokens) / run.seconds;
    outcome.ttft_p50_ms = Percentile(run.ttft, 50) * 1e3;
    outcome.ttft_p99_ms = Percentile(run.ttft, 99) * 1e3;
    outcome.roofline_percent = 100 * run.roofline / run.seconds;
    outcome.hit_percent = load.prefix_query_tokens == 0
                              ? 0
                              : 100.0 * static_cast<double>(load.prefix_hit_tokens) /
                                    static_cast<double>(load.prefix_query_tokens);
    return outcome;
  }

  // With the cache against without, in turns, and first either one as often.
  void Compare(uint32_t groups, bool shares, const std::string& name, const Target& target) {
    std::vector<Outcome> with, without;
    std::vector<double> ratios;
    for (int i = 0; i < settings_.repeats; ++i) {
      const auto seed = static_cast<uint64_t>(i);
      const bool is_cached_first = i % 2 == 0;
      for (const bool is_cached : {is_cached_first, !is_cached_first}) {
        (is_cached ? with : without).push_back(Measure(groups, shares, is_cached, seed));
      }
      ratios.push_back(100 * with.back().tokens_per_s / without.back().tokens_per_s);
    }
    const auto add = [&](const std::string& metric, const std::string& unit,
                         const std::vector<Outcome>& outcomes, double Outcome::*value) {
      std::vector<double> samples;
      for (const Outcome& outcome : outcomes) samples.push_back(outcome.*value);
      report_.Add(name + ": " + metric, unit, samples);
    };
    add("tokens from the cache", "%", with, &Outcome::hit_percent);
    add("with the cache", "tokens/s", with, &Outcome::tokens_per_s);
    add("without", "tokens/s", without, &Outcome::tokens_per_s);
    report_.Add(name + ": with / without", "%", ratios, target);
    add("TTFT p50 with the cache", "ms", with, &Outcome::ttft_p50_ms);
    add("TTFT p50 without", "ms", without, &Outcome::ttft_p50_ms);
    add("TTFT p99 with the cache", "ms", with, &Outcome::ttft_p99_ms);
    add("TTFT p99 without", "ms", without, &Outcome::ttft_p99_ms);
    if (!has_roofline_) return;
    add("roofline share with the cache", "%", with, &Outcome::roofline_percent);
    add("roofline share without", "%", without, &Outcome::roofline_percent);
  }

  const Settings& settings_;
  const bool has_roofline_;
  BenchEngine& engine_;
  BenchReport& report_;
};

absl::Status MeasurePrefix(const Settings& settings, BenchReport& report) {
  EngineFlags flags = settings.engine;
  if (!flags.is_cuda()) {
    // Room for every request, so that the cache is what is measured and not the pool's size.
    const uint32_t block_size = flags.settings().block_size;
    flags.settings().num_gpu_blocks_override =
        settings.groups * settings.group_size * (settings.prefix_context() / block_size + 1);
  }
  const std::optional<DeviceSpeed> speed = settings.roofline.Find(flags);
  auto engine = flags.Build(std::max(kContext, settings.prefix_context()), true);
  if (!engine.ok()) return engine.status();
  flags.Describe(*engine, report);
  report.Set("groups", settings.groups);
  report.Set("group_size", settings.group_size);
  report.Set("shared_tokens", settings.shared_tokens);
  report.Set("own_tokens", settings.own_tokens);
  report.Set("new_tokens", settings.new_tokens);
  const auto has_roofline = RooflineFlags::Attach(speed, flags, *engine, report);
  if (!has_roofline.ok()) return has_roofline.status();
  PrefixBench(settings, *has_roofline, *engine, report).Run();
  return absl::OkStatus();
}

absl::Status Measure(const Settings& settings) {
  BenchReport report("kv");
  if (settings.Does("memory")) {
    if (absl::Status status = MeasureMemory(settings, report); !status.ok()) return status;
  }
  if (settings.Does("prefix")) {
    if (absl::Status status = MeasurePrefix(settings, report); !status.ok()) return status;
  }
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures how the paged engine uses its KV pool.");
  Settings settings;
  settings.engine.Declare(app);
  settings.roofline.Declare(app);
  app.add_option("--repeats", settings.repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  app.add_option("--work", settings.work, "What to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"memory", "prefix"}));
  app.add_option("--mixed-requests", settings.mixed_requests, "memory: requests");
  app.add_option("--mixed-blocks", settings.mixed_blocks, "memory: blocks of the pool")
      ->check(CLI::PositiveNumber);
  app.add_option("--groups", settings.groups, "prefix: groups that share a prompt")
      ->check(CLI::PositiveNumber);
  app.add_option("--group-size", settings.group_size, "prefix: requests of a group")
      ->check(CLI::PositiveNumber);
  app.add_option("--unshared-groups", settings.unshared_groups,
                 "prefix: groups where nothing is shared; 0: as many");
  app.add_option("--shared-tokens", settings.shared_tokens, "prefix: prompt tokens of a group");
  app.add_option("--own-tokens", settings.own_tokens, "prefix: prompt tokens of a request")
      ->check(CLI::PositiveNumber);
  app.add_option("--new-tokens", settings.new_tokens, "prefix: new tokens of a request")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "kv_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
