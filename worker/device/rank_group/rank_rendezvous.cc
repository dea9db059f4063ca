#include "worker/device/rank_group/rank_rendezvous.h"

#include <algorithm>

#include "scheduler/check.h"

namespace quire {

absl::StatusOr<uint64_t> RankRendezvous::Least(uint64_t value) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!status_.ok()) return status_;
  least_ = std::min(least_, value);
  if (++num_arrived_ == size_) {
    agreed_ = least_;
    least_ = std::numeric_limits<uint64_t>::max();
    num_arrived_ = 0;
    ++round_;
    changed_.notify_all();
    return agreed_;
  }
  const uint64_t round = round_;
  changed_.wait(lock, [&] { return round_ != round || !status_.ok(); });
  // A round that was complete when the group was aborted counts: every rank sees it alike.
  if (round_ != round) return agreed_;
  return status_;
}

void RankRendezvous::Abort(const absl::Status& why) {
  QUIRE_CHECK(!why.ok());
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!status_.ok()) return;
  status_ = why;
  changed_.notify_all();
}

absl::Status RankRendezvous::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

}  // namespace quire
