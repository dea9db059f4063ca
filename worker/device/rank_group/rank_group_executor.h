#ifndef QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_GROUP_EXECUTOR_H_
#define QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_GROUP_EXECUTOR_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/engine/model_executor.h"

namespace quire {

// The ranks of a tensor-parallel group as one executor: every rank carries out every plan with its
// part of the model, each on a thread of its own. All of them sample, from the same logits, so no
// token travels; rank 0's results are handed out, and a rank whose tokens differ from them is an
// error.
//
// Any rank's error is the group's, final as ModelExecutor says, and names the rank. It aborts the
// group, so that ranks that wait for the lost one return; Launch and Collect do not wait until they
// have, which takes NCCL about a second, but the destructor does.
class RankGroupExecutor final : public ModelExecutor {
 public:
  // Makes a rank's executor, on the rank's thread, while the others make theirs. All must come to
  // the same limits.
  using MakeRank = std::function<absl::StatusOr<std::unique_ptr<ModelExecutor>>(uint32_t rank)>;
  // Makes every rank return from what it waits for, and fail. May be called from any rank's thread,
  // and more than once.
  using AbortRanks = std::function<void(const absl::Status& why)>;

  // The first error of a rank, whose number it names. REQUIRES: size > 0.
  static absl::StatusOr<std::unique_ptr<RankGroupExecutor>> Create(uint32_t size,
                                                                   const MakeRank& make_rank,
                                                                   AbortRanks abort_ranks);
  ~RankGroupExecutor() override;

  // Rank 0's, but for the KV memory of a token, which is that of all ranks.
  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

  uint32_t size() const { return static_cast<uint32_t>(ranks_.size()); }
  ModelExecutor& rank(uint32_t index) { return *ranks_[index]; }
  // For tests: puts `wrap`'s executor in the place of the rank's own.
  using WrapRank = std::function<std::unique_ptr<ModelExecutor>(std::unique_ptr<ModelExecutor>)>;
  void WrapRankForTest(uint32_t index, const WrapRank& wrap) {
    ranks_[index] = wrap(std::move(ranks_[index]));
  }

 private:
  using Work = std::function<absl::Status(uint32_t rank)>;

  RankGroupExecutor(uint32_t size, AbortRanks abort_ranks);
  // Does `work` for every rank at once and returns when all are through: the first error.
  absl::Status OnAllRanks(Work work);
  // The same, but returns at once with an error, while ranks may still be at it: `work` refers to
  // nothing but members.
  absl::Status OnAllRanksUntilError(Work work);
  void StartRound(Work work);
  absl::Status EndRound(bool waits_for_all);
  void RunRound(uint32_t rank);
  void Loop(uint32_t rank);

  const AbortRanks abort_ranks_;
  std::vector<std::unique_ptr<ModelExecutor>> ranks_;
  StepPlan plan_;                    // that is being launched
  std::vector<StepResult> results_;  // by rank
  ExecutorLimits limits_;

  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t round_ = 0;
  Work work_;  // of the round; empty: the threads are to end. Not touched while ranks are busy.
  uint32_t num_busy_ = 0;
  absl::Status first_error_;  // of the round
  std::vector<std::thread> threads_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_GROUP_EXECUTOR_H_
