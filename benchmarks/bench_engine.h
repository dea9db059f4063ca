#ifndef QUIRE_BENCHMARKS_BENCH_ENGINE_H_
#define QUIRE_BENCHMARKS_BENCH_ENGINE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/roofline.h"
#include "scheduler/sampling_params.h"
#include "worker/engine/engine.h"
#include "worker/engine/model_executor.h"
#include "worker/engine_factory.h"

namespace quire {

// Requests that are submitted at once, and how long they took. Times are in seconds.
struct BenchRun {
  double seconds = 0;      // from the first submit to the last token
  double first_token = 0;  // to the first token of all
  uint64_t num_tokens = 0;
  std::vector<double> ttft;  // a request each
  std::vector<double> tpot;  // a request of two tokens or more each: its mean after the first
  std::vector<double> itl;   // every gap between two tokens of a request
  // Sums over the steps, up to the one with the first token and over all; 0 without a roofline.
  double roofline_first_token = 0;
  double roofline = 0;
};

struct BenchRequest {
  std::vector<TokenId> prompt;
  uint32_t max_new_tokens = 0;
};

// The paged engine alone on one device, driven on the calling thread: no gRPC, no coordinator, no
// loop thread. As many steps are in flight as the device takes. Not thread safe.
class BenchEngine {
 public:
  // On the executor that a worker with these settings has. Errors are BuildEngine's. REQUIRES:
  // settings.engine is "paged".
  static absl::StatusOr<BenchEngine> Build(const EngineSettings& settings,
                                           const BuildProgress& progress);
  BenchEngine(std::unique_ptr<ModelExecutor> executor, bool enable_prefix_caching);

  // Forgets every request and the prefix cache; the device stays as it is. REQUIRES: idle.
  void Restart(bool enable_prefix_caching);

  // Queues a request that ignores every stop. Ends the process when the engine refuses it.
  void Submit(std::vector<TokenId> prompt, uint32_t max_new_tokens, const SamplingParams& params);

  // Plans and launches what the device takes, and settles the oldest step. False: nothing was left
  // to run.
  bool Step();
  void RunUntilIdle() {
    while (Step()) {
    }
  }
  void CancelAll();

  // Submits greedy requests at once and runs them to their ends. REQUIRES: idle.
  BenchRun Run(std::vector<BenchRequest> requests);

  // Of the last step.
  uint32_t num_tokens_out() const { return static_cast<uint32_t>(output_.tokens.size()); }
  const std::vector<ChoiceFinish>& finishes() const { return output_.finishes; }
  uint32_t num_positions() const { return settled_.num_positions; }

  // For the runs that follow.
  void set_roofline(const Roofline& roofline) { roofline_.emplace(roofline); }
  EngineLoad load() const { return engine_->load(); }
  const ExecutorLimits& limits() const { return executor_->limits(); }
  // Device, memory and threads in a line; empty unless built by Build.
  const std::string& description() const { return description_; }

 private:
  struct LaunchedStep {
    uint32_t num_positions = 0;
    double roofline_seconds = 0;
  };

  void Launch();

  std::unique_ptr<ModelExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  std::optional<Roofline> roofline_;
  std::string description_;
  uint64_t next_request_ = 0;
  uint64_t first_alive_ = 0;
  // What the device believes, and what it is to hear with the next plan: an engine that begins anew
  // knows nothing of the slots before.
  std::vector<bool> is_taken_;
  std::vector<SlotId> left_over_;
  StepPlan plan_;
  StepResult result_;
  EngineOutput output_;
  std::deque<LaunchedStep> launched_;
  LaunchedStep settled_;
};

// Token ids drawn evenly from the vocabulary: no two prompts share a block.
class RandomPrompts {
 public:
  RandomPrompts(uint32_t vocabulary_size, uint64_t seed)
      : ids_(0, vocabulary_size - 1), random_(seed) {}
  std::vector<TokenId> Next(uint32_t num_tokens);

 private:
  std::uniform_int_distribution<TokenId> ids_;
  std::mt19937_64 random_;
};

// temperature 0.
SamplingParams Greedy();

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_BENCH_ENGINE_H_
