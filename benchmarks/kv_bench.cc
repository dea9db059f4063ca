// Measures how the paged engine uses its KV pool. Prints one JSON document (bench_support.h).
//
//   kv_bench --model FOLDER [--dummy] [--dtype bf16|fp32] [--threads 2] [--work memory,prefix]
//   [targets]
//
// memory  Requests of mixed lengths, 1 to 2,048 tokens in all, into a pool that holds a fraction of
//         them. Over the steps in which some wait for room: KV bytes used / reserved, and how many
//         run at once, against the number that the same memory holds when each reserves the
//         maximum.
// prefix  Groups of requests that share most of their prompt, with the prefix cache and without, in
//         turns; and requests that share nothing, where the cache only costs.

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

namespace quire {
namespace {

constexpr uint32_t kContext = 2048;
constexpr uint32_t kPoolBlocks = 1536;
constexpr uint32_t kMixedRequests = 64;

// The shape of the prefix work: enough to see the effect within seconds on a small model.
constexpr uint32_t kGroups = 8;
constexpr uint32_t kRequestsOfGroup = 8;
constexpr uint32_t kSharedTokens = 512;
constexpr uint32_t kOwnTokens = 32;
constexpr uint32_t kNewTokens = 32;

struct Settings {
  std::string model;
  bool dummy = false;
  std::string dtype = "bf16";
  int threads = 2;
  std::vector<std::string> work = {"memory", "prefix"};
  int repeats = 5;
};

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

class KvBench {
 public:
  KvBench(const Settings& settings, std::shared_ptr<const Weights> weights, BenchReport& report)
      : settings_(settings), weights_(std::move(weights)), report_(report) {}

  absl::Status Run() {
    for (const std::string& work : settings_.work) {
      const absl::Status status = work == "memory" ? MeasureMemory() : MeasurePrefix();
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<BenchEngine> MakeEngine(uint32_t num_blocks, bool enable_prefix_caching) const {
    BenchEngine::Options options;
    options.executor.num_threads = settings_.threads;
    options.executor.max_num_batched_tokens = 512;
    options.executor.context_length = kContext;
    options.executor.num_blocks = num_blocks;
    options.enable_prefix_caching = enable_prefix_caching;
    return BenchEngine::Create(options, weights_);
  }

  absl::Status MeasureMemory() {
    absl::StatusOr<BenchEngine> engine = MakeEngine(kPoolBlocks, false);
    if (!engine.ok()) return engine.status();
    const uint32_t block_size = engine->executor().limits().block_size;
    std::mt19937_64 random(7);
    RandomPrompts prompts(weights_->config().vocab_size, 7);
    for (uint32_t i = 0; i < kMixedRequests; ++i) {
      const auto total = static_cast<uint32_t>(2 + random() % (kContext - 1));
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
    report_.Add("KV used / reserved while full", "%", shares, AtLeast(96));
    report_.Add("most unused tokens of a sequence", "tokens",
                {static_cast<double>(max_unused_tokens)}, AtMost(block_size - 1));
    report_.Add("requests held at once", "", held);
    report_.Add("held if each reserves the maximum", "",
                {static_cast<double>(kPoolBlocks * block_size / kContext)});
    report_.Add("preemptions", "", {static_cast<double>(engine->load().preemptions)});
    return absl::OkStatus();
  }

  // Output tokens a second of all requests, prompts included in the time.
  absl::StatusOr<double> Rate(bool enable_prefix_caching, bool shares, uint64_t seed,
                              double* hit_percent) const {
    constexpr uint32_t kRequests = kGroups * kRequestsOfGroup;
    constexpr uint32_t kTokens = kSharedTokens + kOwnTokens + kNewTokens;
    absl::StatusOr<BenchEngine> engine =
        MakeEngine(kRequests * (kTokens / 16 + 1), enable_prefix_caching);
    if (!engine.ok()) return engine.status();
    RandomPrompts prompts(weights_->config().vocab_size, seed);
    std::vector<std::vector<TokenId>> all;
    for (uint32_t group = 0; group < kGroups; ++group) {
      const std::vector<TokenId> shared = prompts.Next(kSharedTokens);
      for (uint32_t i = 0; i < kRequestsOfGroup; ++i) {
        std::vector<TokenId> prompt = shares ? shared : prompts.Next(kSharedTokens);
        const std::vector<TokenId> own = prompts.Next(kOwnTokens);
        prompt.insert(prompt.end(), own.begin(), own.end());
        all.push_back(std::move(prompt));
      }
    }
    const Stopwatch watch;
    for (std::vector<TokenId>& prompt : all)
      engine->Submit(std::move(prompt), kNewTokens, Greedy());
    engine->RunUntilIdle();
    const double seconds = watch.Seconds();
    const EngineLoad load = engine->load();
    *hit_percent = 100.0 * static_cast<double>(load.prefix_hit_tokens) /
                   static_cast<double>(load.prefix_query_tokens);
    return kRequests * kNewTokens / seconds;
  }

  // With the cache against without, in turns.
  absl::Status Compare(bool shares, const std::string& name, const Target& target) {
    std::vector<double> with, without, ratios, hits;
    for (int i = 0; i < settings_.repeats; ++i) {
      double hit_percent = 0;
      double no_hits = 0;
      const auto seed = static_cast<uint64_t>(i);
      const absl::StatusOr<double> cached = Rate(true, shares, seed, &hit_percent);
      const absl::StatusOr<double> plain = Rate(false, shares, seed, &no_hits);
      if (!cached.ok()) return cached.status();
      if (!plain.ok()) return plain.status();
      with.push_back(*cached);
      without.push_back(*plain);
      ratios.push_back(100 * *cached / *plain);
      hits.push_back(hit_percent);
    }
    report_.Add(name + ": tokens from the cache", "%", hits);
    report_.Add(name + ": with the cache", "tokens/s", with);
    report_.Add(name + ": without", "tokens/s", without);
    report_.Add(name + ": with / without", "%", ratios, target);
    return absl::OkStatus();
  }

  absl::Status MeasurePrefix() {
    if (absl::Status status = Compare(true, "shared prompts", {}); !status.ok()) return status;
    return Compare(false, "nothing shared", AtLeast(99));
  }

  const Settings& settings_;
  std::shared_ptr<const Weights> weights_;
  BenchReport& report_;
};

absl::Status Measure(const Settings& settings) {
  BenchReport report("kv");
  auto weights =
      BenchEngine::LoadWeights(settings.model, settings.dummy, settings.dtype, settings.threads);
  if (!weights.ok()) return weights.status();
  report.Set("model", settings.model);
  report.Set("weights", settings.dummy ? "dummy" : "checkpoint");
  report.Set("dtype", settings.dtype);
  report.Set("threads", settings.threads);
  if (absl::Status status = KvBench(settings, *std::move(weights), report).Run(); !status.ok()) {
    return status;
  }
  std::cout << report.document().dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures how the paged engine uses its KV pool.");
  Settings settings;
  app.add_option("--model", settings.model, "Folder with config.json")->required();
  app.add_flag("--dummy", settings.dummy, "Random weights from the config alone");
  app.add_option("--dtype", settings.dtype, "bf16 or fp32")->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--threads", settings.threads, "Threads that compute")->check(CLI::Range(1, 256));
  app.add_option("--repeats", settings.repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  app.add_option("--work", settings.work, "What to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"memory", "prefix"}));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Measure(settings);
  if (!status.ok()) std::cerr << "kv_bench: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
