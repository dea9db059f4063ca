#ifndef QUIRE_TESTS_FAKES_GATED_EXECUTOR_H_
#define QUIRE_TESTS_FAKES_GATED_EXECUTOR_H_

#include <cstdint>

#include "common/mutex.h"
#include "worker/device/fake/fake_executor.h"

namespace quire {

// Says how many steps a device may finish.
class StepGate {
 public:
  void Allow(uint64_t steps) {
    MutexLock lock(mutex_);
    allowed_ += steps;
    changed_.NotifyAll();
  }
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  // Waits until every allowed step has been taken.
  void WaitUntilUsed() {
    MutexLock lock(mutex_);
    while (allowed_ > 0) changed_.Wait(mutex_);
  }
  // Waits for leave to finish a step.
  void Pass() {
    MutexLock lock(mutex_);
    while (!open_ && allowed_ == 0) changed_.Wait(mutex_);
    if (open_) return;
    --allowed_;
    changed_.NotifyAll();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  uint64_t allowed_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool open_ QUIRE_GUARDED_BY(mutex_) = false;
};

// A fake device whose steps end when the test says so.
class GatedExecutor final : public ModelExecutor {
 public:
  GatedExecutor(const FakeExecutor::Options& options, StepGate* gate)
      : fake_(options), gate_(gate) {}
  const ExecutorLimits& limits() const override { return fake_.limits(); }
  absl::Status Launch(const StepPlan& plan) override { return fake_.Launch(plan); }
  absl::Status Collect(StepResult* result) override {
    gate_->Pass();
    return fake_.Collect(result);
  }

 private:
  FakeExecutor fake_;
  StepGate* const gate_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_GATED_EXECUTOR_H_
