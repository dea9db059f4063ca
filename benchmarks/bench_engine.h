#ifndef QUIRE_BENCHMARKS_BENCH_ENGINE_H_
#define QUIRE_BENCHMARKS_BENCH_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/bench_support.h"
#include "scheduler/sampling_params.h"
#include "worker/device/cpu/cpu_executor.h"
#include "worker/engine/engine.h"
#include "worker/model/weights.h"

namespace quire {

// The paged engine alone on the CPU executor, driven on the calling thread: no gRPC, no
// coordinator, no loop thread. Not thread safe.
class BenchEngine {
 public:
  struct Options {
    CpuExecutorOptions executor;
    bool enable_prefix_caching = true;
  };
  // Pairs of dtypes and names as on the command line: fp32, bf16.
  static absl::StatusOr<std::shared_ptr<const Weights>> LoadWeights(const std::string& folder,
                                                                    bool dummy,
                                                                    const std::string& dtype,
                                                                    int num_threads);
  static absl::StatusOr<BenchEngine> Create(const Options& options,
                                            std::shared_ptr<const Weights> weights);

  // Queues a request that ignores every stop. Ends the process when the engine refuses it.
  void Submit(std::vector<TokenId> prompt, uint32_t max_new_tokens, const SamplingParams& params);

  // One step: plan, execute, settle. False: nothing was left to run.
  bool Step();
  void RunUntilIdle() {
    while (Step()) {
    }
  }
  void CancelAll();

  // Of the last step.
  uint32_t num_tokens_out() const { return num_tokens_out_; }
  uint32_t num_finished() const { return static_cast<uint32_t>(output_.finishes.size()); }
  const std::vector<ChoiceFinish>& finishes() const { return output_.finishes; }
  uint32_t num_positions() const { return plan_.num_tokens; }

  EngineLoad load() const { return engine_->load(); }
  const CpuExecutor& executor() const { return *executor_; }

 private:
  BenchEngine(std::unique_ptr<CpuExecutor> executor, std::unique_ptr<Engine> engine)
      : executor_(std::move(executor)), engine_(std::move(engine)) {}

  std::unique_ptr<CpuExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  uint64_t next_request_ = 0;
  uint64_t first_alive_ = 0;
  StepPlan plan_;
  StepResult result_;
  EngineOutput output_;
  uint32_t num_tokens_out_ = 0;
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

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_BENCH_ENGINE_H_
