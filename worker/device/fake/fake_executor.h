#ifndef QUIRE_WORKER_DEVICE_FAKE_FAKE_EXECUTOR_H_
#define QUIRE_WORKER_DEVICE_FAKE_FAKE_EXECUTOR_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "worker/engine/model_executor.h"

namespace quire {

// An executor without a model, for tests of everything above the device and for mock workers: a
// token is a hash of all tokens before it, read through the block table out of a simulated KV
// cache. A wrong block table, a block reused too early or a position left out changes the tokens.
class FakeExecutor final : public ModelExecutor {
 public:
  struct Options {
    ExecutorLimits limits;
    // Reads the whole context for each sample, as attention does, and checks every entry. Without
    // it a sample reads the last entry alone, which depends on the ones before it as they were when
    // computed.
    bool reads_whole_context = true;
    // A token of a request with a temperature depends on its seed and choice as well.
    bool samples = false;
    // How long a step takes from its launch on, at least.
    std::chrono::microseconds step_time{0};
    // Consulted for each run, if set: the fault that its row has.
    std::function<NumericFault(SlotId, uint32_t position)> inject_fault;
  };
  explicit FakeExecutor(const Options& options);

  const ExecutorLimits& limits() const override { return options_.limits; }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

  // What it reports as the log-probability of the token at a position, of the prompt and after it.
  static float LogprobAt(uint32_t position) { return -static_cast<float>(position); }

  // The token that follows `tokens`, whatever runs beside it.
  static TokenId NextToken(std::span<const TokenId> tokens, uint32_t vocabulary_size);
  // The same for an executor that samples.
  static TokenId NextToken(std::span<const TokenId> tokens, const SamplingParams& params,
                           uint32_t vocabulary_size);

 private:
  struct KvEntry {
    uint64_t prefix_hash = 0;  // of the tokens up to and including this one
    TokenId token = 0;
    uint32_t position = 0;
  };
  struct Slot {
    bool occupied = false;
    std::vector<TokenId> tokens;
    uint32_t num_prompt_tokens = 0;
    uint32_t position = 0;  // next to compute
    std::shared_ptr<const SamplingParams> params;
    std::vector<BlockId> blocks;
    std::vector<KvEntry> own_kv;  // when the executor does not page
  };
  struct Step {
    StepResult result;
    std::chrono::steady_clock::time_point ready_at;
  };

  KvEntry& Entry(Slot& slot, uint32_t position);
  TokenId Sample(Slot& slot);
  static void AddLogprobs(const Slot& slot, const SlotRun& run, StepResult* result);

  const Options options_;
  std::vector<Slot> slots_;
  std::vector<KvEntry> kv_;  // [num_blocks, block_size]
  std::deque<Step> steps_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_FAKE_FAKE_EXECUTOR_H_
