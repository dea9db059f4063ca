#include "tests/worker/device/cpu/cpu_under_test.h"

#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/status/statusor.h"
#include "worker/device/cpu/cpu_ranks.h"

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

class CpuRanksUnderTest final : public ExecutorUnderTest {
 public:
  explicit CpuRanksUnderTest(std::unique_ptr<RankGroupExecutor> ranks) : ranks_(std::move(ranks)) {}

  void set_logits_observer(LogitsObserver observer) override {
    rank(0).set_logits_observer(std::move(observer));
  }
  void FillWithNan(BlockId block) override {
    for (uint32_t i = 0; i < ranks_->size(); ++i) rank(i).kv_store_for_test().FillWithNan(block);
  }

 private:
  CpuExecutor& rank(uint32_t index) { return static_cast<CpuExecutor&>(ranks_->rank(index)); }
  ModelExecutor& executor() override { return *ranks_; }

  const std::unique_ptr<RankGroupExecutor> ranks_;
};

// Ends the process where there is none.
template <typename T>
T OrAbort(absl::StatusOr<T> made) {
  if (!made.ok()) {
    std::cerr << made.status() << std::endl;
    std::abort();
  }
  return *std::move(made);
}

}  // namespace

std::unique_ptr<ExecutorUnderTest> MakeCpuRanksUnderTest(const CpuExecutorOptions& options,
                                                         uint32_t size,
                                                         std::shared_ptr<const Weights> weights) {
  return std::make_unique<CpuRanksUnderTest>(
      OrAbort(CreateCpuRanks(options, size, std::move(weights))));
}

std::unique_ptr<ExecutorUnderTest> MakeCpuUnderTest(const CpuExecutorOptions& options,
                                                    std::shared_ptr<const Weights> weights) {
  return std::make_unique<CpuUnderTest>(OrAbort(CpuExecutor::Create(options, std::move(weights))));
}

}  // namespace quire
