#ifndef QUIRE_TESTS_WORKER_DEVICE_TORCH_BASELINE_BASELINE_DRIVER_H_
#define QUIRE_TESTS_WORKER_DEVICE_TORCH_BASELINE_BASELINE_DRIVER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/device/torch_baseline/torch_baseline_executor.h"

namespace quire {

// A sequence for the baseline's slot.
struct BaselineRequest {
  std::vector<TokenId> prompt;
  std::vector<TokenId> emitted;  // by an earlier attempt
  uint32_t num_new_tokens = 1;
  std::shared_ptr<const SamplingParams> params;
};

struct BaselineOutcome {
  std::vector<TokenId> output;  // without `emitted`
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  std::vector<KvBytes> kv;  // one a step
  NumericFault fault = NumericFault::kNone;
};

// Greedy, with so many alternatives for output and prompt tokens.
std::shared_ptr<const SamplingParams> GreedyWithLogprobs(uint32_t num_top);

// Runs a sequence in an empty executor and empties it again: the prompt in runs of at most
// `max_chunk`, then a token a step, as SerialScheduler plans it. Ends at the first fault.
BaselineOutcome RunBaseline(TorchBaselineExecutor& executor, const BaselineRequest& request,
                            uint32_t max_chunk = ~0u);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_TORCH_BASELINE_BASELINE_DRIVER_H_
