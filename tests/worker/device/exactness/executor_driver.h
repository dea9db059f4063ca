#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_DRIVER_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_DRIVER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "tests/worker/device/exactness/executor_under_test.h"

namespace quire {

// A request and what came of it.
struct TestSequence {
  std::vector<TokenId> prompt;
  uint32_t num_new_tokens = 0;
  std::shared_ptr<const SamplingParams> params;

  std::vector<TokenId> output;
  // Raw logits by position, as the executor's observer saw them last.
  std::map<uint32_t, std::vector<float>> logits;
  std::vector<TokenLogprobs> logprobs;
  std::vector<NumericFault> faults;
};

// A scheduler gone wild: runs sequences on an executor in random company, slots, blocks and chunks,
// preempts them at random, and fills every block it takes or gives back with NaN first.
struct WildSchedule {
  uint64_t seed = 0;
  uint32_t max_running = 1;
  uint32_t max_chunk = 512;     // positions of a run
  double preempt_chance = 0.0;  // per running sequence and step
};

// Collects each step before it launches the next. Every block and slot of the executor is free
// before and after.
void RunSequences(ExecutorUnderTest& executor, const WildSchedule& schedule,
                  std::vector<TestSequence>& sequences);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_DRIVER_H_
