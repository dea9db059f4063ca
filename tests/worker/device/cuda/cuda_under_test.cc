#include "tests/worker/device/cuda/cuda_under_test.h"

#include <utility>

#include "worker/device/cuda/cuda_ranks.h"

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

class CudaRanksUnderTest final : public ExecutorUnderTest {
 public:
  explicit CudaRanksUnderTest(std::unique_ptr<RankGroupExecutor> ranks)
      : ranks_(std::move(ranks)) {}

  void set_logits_observer(LogitsObserver observer) override {
    rank(0).set_logits_observer(std::move(observer));
  }
  void FillWithNan(BlockId block) override {
    for (uint32_t i = 0; i < ranks_->size(); ++i) rank(i).FillWithNanForTest(block);
  }

 private:
  CudaExecutor& rank(uint32_t index) { return static_cast<CudaExecutor&>(ranks_->rank(index)); }
  ModelExecutor& executor() override { return *ranks_; }

  const std::unique_ptr<RankGroupExecutor> ranks_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ExecutorUnderTest>> MakeCudaRanksUnderTest(
    const CudaExecutorOptions& options, uint32_t size, const Weights& weights) {
  auto ranks = CreateCudaRanks(options, size, weights, nullptr);
  if (!ranks.ok()) return ranks.status();
  return std::make_unique<CudaRanksUnderTest>(*std::move(ranks));
}

absl::StatusOr<std::unique_ptr<ExecutorUnderTest>> MakeCudaUnderTest(
    const CudaExecutorOptions& options, const Weights& weights) {
  auto executor = CudaExecutor::Create(options, weights, nullptr);
  if (!executor.ok()) return executor.status();
  return std::make_unique<CudaUnderTest>(*std::move(executor));
}

}  // namespace quire
