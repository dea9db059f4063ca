#ifndef QUIRE_WORKER_DEVICE_FAKE_LOST_DEVICE_H_
#define QUIRE_WORKER_DEVICE_FAKE_LOST_DEVICE_H_

#include <cstdint>
#include <deque>
#include <memory>

#include "worker/engine/model_executor.h"

namespace quire {

// For tests: an executor whose device is lost at a step, which never runs. Where steps run after
// Launch (max_steps_in_flight above 1) it is collecting the step that fails, as with a kernel's
// error; else Launch. Of ranks it is the one that the others wait for.
class LostDevice final : public ModelExecutor {
 public:
  // Steps count from 1, as StepPlan's.
  LostDevice(std::unique_ptr<ModelExecutor> executor, uint64_t lost_at_step);

  const ExecutorLimits& limits() const override { return executor_->limits(); }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

 private:
  const std::unique_ptr<ModelExecutor> executor_;
  const uint64_t lost_at_step_;
  const bool runs_in_launch_;
  std::deque<uint64_t> launched_;  // not yet collected
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_FAKE_LOST_DEVICE_H_
