#include "tests/worker/device/cuda/cuda_under_test.h"

#include <utility>

namespace quire {
namespace {

class CudaUnderTest final : public ExecutorUnderTest {
 public:
  explicit CudaUnderTest(std::unique_ptr<CudaExecutor> executor) : executor_(std::move(executor)) {}

  void set_logits_observer(LogitsObserver observer) override {
    executor_->set_logits_observer(std::move(observer));
  }
  void FillWithNan(BlockId block) override { executor_->FillWithNanForTest(block); }

 private:
  ModelExecutor& executor() override { return *executor_; }

  const std::unique_ptr<CudaExecutor> executor_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ExecutorUnderTest>> MakeCudaUnderTest(
    const CudaExecutorOptions& options, const Weights& weights) {
  auto executor = CudaExecutor::Create(options, weights, nullptr);
  if (!executor.ok()) return executor.status();
  return std::make_unique<CudaUnderTest>(*std::move(executor));
}

}  // namespace quire
