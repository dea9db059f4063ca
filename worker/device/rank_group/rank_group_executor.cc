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
  for (uint32_t rank = 0; rank < size; ++rank) {
    threads_.emplace_back([this, rank] { Loop(rank); });
  }
}

RankGroupExecutor::~RankGroupExecutor() {
  {
    // After an error ranks may still be on their way back.
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return num_busy_ == 0; });
  }
  StartRound(nullptr);
  for (std::thread& thread : threads_) thread.join();
}

absl::Status RankGroupExecutor::Launch(const StepPlan& plan) {
  plan_ = plan;  // which ranks may still be at when an error has returned
  return OnAllRanksUntilError([this](uint32_t rank) { return ranks_[rank]->Launch(plan_); });
}

absl::Status RankGroupExecutor::Collect(StepResult* result) {
  absl::Status status = OnAllRanksUntilError(
      [this](uint32_t rank) { return ranks_[rank]->Collect(&results_[rank]); });
  if (!status.ok()) return status;
  const StepResult& first = results_[0];
  for (uint32_t rank = 1; rank < size(); ++rank) {
    if (results_[rank].step == first.step && results_[rank].tokens == first.tokens) continue;
    status = absl::InternalError(absl::StrCat("step ", first.step, ": rank ", rank,
                                              " sampled other tokens than rank 0 from logits that "
                                              "must be the same"));
    abort_ranks_(status);
    return status;
  }
  std::swap(*result, results_[0]);
  return absl::OkStatus();
}

absl::Status RankGroupExecutor::OnAllRanks(Work work) {
  StartRound(std::move(work));
  return EndRound(true);
}

absl::Status RankGroupExecutor::OnAllRanksUntilError(Work work) {
  StartRound(std::move(work));
  return EndRound(false);
}

void RankGroupExecutor::StartRound(Work work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    QUIRE_CHECK(num_busy_ == 0);
    work_ = std::move(work);
    first_error_ = absl::OkStatus();
    num_busy_ = size();
    ++round_;
  }
  changed_.notify_all();
}

absl::Status RankGroupExecutor::EndRound(bool waits_for_all) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return num_busy_ == 0 || (!waits_for_all && !first_error_.ok()); });
  return first_error_;
}

void RankGroupExecutor::RunRound(uint32_t rank) {
  const absl::Status status = work_(rank);
  if (status.ok()) return;
  const absl::Status named =
      size() == 1
          ? status
          : absl::Status(status.code(), absl::StrCat("rank ", rank, ": ", status.message()));
  {
    // Before the abort, so that the ranks it wakes do not come first.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_error_.ok()) first_error_ = named;
  }
  changed_.notify_all();
  abort_ranks_(named);
}

void RankGroupExecutor::Loop(uint32_t rank) {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
    }
    if (!work_) return;
    RunRound(rank);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      --num_busy_;
    }
    changed_.notify_all();
  }
}

}  // namespace quire
