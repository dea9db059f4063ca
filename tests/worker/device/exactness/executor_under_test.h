#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_UNDER_TEST_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_UNDER_TEST_H_

#include <cstdint>
#include <functional>

#include "worker/engine/model_executor.h"

namespace quire {

// A device's paged executor, and what the tests of exactness want of it beyond ModelExecutor. Each
// device has a factory beside its tests. Not thread safe.
class ExecutorUnderTest {
 public:
  virtual ~ExecutorUnderTest() = default;

  const ExecutorLimits& limits() { return executor().limits(); }
  // As ModelExecutor's. An error, which means that the device is lost, ends the process.
  void Launch(const StepPlan& plan);
  void Collect(StepResult* result);

  // The observer sees the raw logits, [vocabulary], of every row that has any, within the Launch of
  // the row's plan. Null: none.
  using LogitsObserver = std::function<void(SlotId slot, uint32_t position, const float* logits)>;
  virtual void set_logits_observer(LogitsObserver observer) = 0;

  // Every key and value that the block holds becomes a NaN, after the steps launched so far and
  // before those to come.
  virtual void FillWithNan(BlockId block) = 0;

 protected:
  virtual ModelExecutor& executor() = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_EXECUTOR_UNDER_TEST_H_
