#include "worker/device/rank_group/rank_group_executor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace quire {

absl::StatusOr<std::unique_ptr<RankGroupExecutor>> RankGroupExecutor::Create(
    uint32_t size, const MakeRank& make_rank, AbortRanks abort_ranks) {
  QUIRE_CHECK(size > 0);
  std::unique_ptr<RankGroupExecutor> group(new RankGroupExecutor(size, std::move(abort_ranks)));
  absl::Status status = group->OnAllRanks([&](uint32_t rank) {
    auto made = make_rank(rank);
    if (!made.ok()) return made.status();
    group->ranks_[rank] = *std::move(made);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  group->limits_ = group->ranks_[0]->limits();
  for (const auto& rank : group->ranks_) {
    QUIRE_CHECK(rank->limits().num_blocks == group->limits_.num_blocks);
    QUIRE_CHECK(rank->limits().num_slots == group->limits_.num_slots);
    QUIRE_CHECK(rank->limits().max_num_batched_tokens == group->limits_.max_num_batched_tokens);
  }
  group->limits_.kv_bytes_per_token *= size;
  return group;
}

RankGroupExecutor::RankGroupExecutor(uint32_t size, AbortRanks abort_ranks)
    : abort_ranks_(std::move(abort_ranks)), ranks_(size), results_(size) {
  for (uint32_t rank = 1; rank < size; ++rank) {
    threads_.emplace_back([this, rank] { Loop(rank); });
  }
}

RankGroupExecutor::~RankGroupExecutor() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = nullptr;
    ++round_;
  }
  started_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status RankGroupExecutor::Launch(const StepPlan& plan) {
  return OnAllRanks([&](uint32_t rank) { return ranks_[rank]->Launch(plan); });
}

absl::Status RankGroupExecutor::Collect(StepResult* result) {
  absl::Status status = OnAllRanks(
      [&](uint32_t rank) { return ranks_[rank]->Collect(rank == 0 ? result : &results_[rank]); });
  if (!status.ok()) return status;
  for (uint32_t rank = 1; rank < size(); ++rank) {
    if (results_[rank].step == result->step && results_[rank].tokens == result->tokens) continue;
    status = absl::InternalError(absl::StrCat("step ", result->step, ": rank ", rank,
                                              " sampled other tokens than rank 0 from logits that "
                                              "must be the same"));
    abort_ranks_(status);
    return status;
  }
  return absl::OkStatus();
}

absl::Status RankGroupExecutor::OnAllRanks(Work work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = &work;
    first_error_ = absl::OkStatus();
    num_busy_ = size() - 1;
    ++round_;
  }
  started_.notify_all();
  const absl::Status own = OnRank(0, work);
  std::unique_lock<std::mutex> lock(mutex_);
  if (!own.ok() && first_error_.ok()) first_error_ = own;
  ended_.wait(lock, [this] { return num_busy_ == 0; });
  return first_error_;
}

absl::Status RankGroupExecutor::OnRank(uint32_t rank, Work work) {
  const absl::Status status = work(rank);
  if (status.ok() || size() == 1) return status;
  const absl::Status named(status.code(), absl::StrCat("rank ", rank, ": ", status.message()));
  {
    // Before the abort, so that the ranks it wakes do not come first.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_error_.ok()) first_error_ = named;
  }
  abort_ranks_(named);
  return named;
}

void RankGroupExecutor::Loop(uint32_t rank) {
  uint64_t seen = 0;
  while (true) {
    const Work* work = nullptr;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      started_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      work = work_;
    }
    if (work == nullptr) return;
    OnRank(rank, *work).IgnoreError();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--num_busy_ == 0) ended_.notify_one();
  }
}

}  // namespace quire
