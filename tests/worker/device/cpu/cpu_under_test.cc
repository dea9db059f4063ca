#include "tests/worker/device/cpu/cpu_under_test.h"

#include <cstdlib>
#include <iostream>
#include <utility>

namespace quire {
namespace {

class CpuUnderTest final : public ExecutorUnderTest {
 public:
  explicit CpuUnderTest(std::unique_ptr<CpuExecutor> executor) : executor_(std::move(executor)) {}

  void set_logits_observer(LogitsObserver observer) override {
    executor_->set_logits_observer(std::move(observer));
  }
  void FillWithNan(BlockId block) override { executor_->kv_store_for_test().FillWithNan(block); }

 private:
  ModelExecutor& executor() override { return *executor_; }

  const std::unique_ptr<CpuExecutor> executor_;
};

}  // namespace

std::unique_ptr<ExecutorUnderTest> MakeCpuUnderTest(const CpuExecutorOptions& options,
                                                    std::shared_ptr<const Weights> weights) {
  auto executor = CpuExecutor::Create(options, std::move(weights));
  if (!executor.ok()) {
    std::cerr << executor.status() << std::endl;
    std::abort();
  }
  return std::make_unique<CpuUnderTest>(*std::move(executor));
}

}  // namespace quire
