#include "worker/device/fake/lost_device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace quire {
namespace {

absl::Status Lost(uint64_t step) {
  return absl::InternalError(absl::StrCat("step ", step, ": lost, as asked for a test"));
}

}  // namespace

LostDevice::LostDevice(std::unique_ptr<ModelExecutor> executor, uint64_t lost_at_step)
    : executor_(std::move(executor)),
      lost_at_step_(lost_at_step),
      runs_in_launch_(executor_->limits().max_steps_in_flight == 1) {}

absl::Status LostDevice::Launch(const StepPlan& plan) {
  launched_.push_back(plan.step);
  if (plan.step < lost_at_step_) return executor_->Launch(plan);
  return runs_in_launch_ ? Lost(plan.step) : absl::OkStatus();
}

absl::Status LostDevice::Collect(StepResult* result) {
  QUIRE_CHECK(!launched_.empty());
  const uint64_t step = launched_.front();
  launched_.pop_front();
  if (step < lost_at_step_) return executor_->Collect(result);
  return Lost(step);
}

}  // namespace quire
