#ifndef QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_RENDEZVOUS_H_
#define QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_RENDEZVOUS_H_

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quire {

// Where the ranks of a tensor-parallel group, threads of one process, wait for each other. A rank
// that cannot go on aborts the group, which ends every wait: no rank waits for one that is lost.
//
// Thread safe. Each rank calls the same sequence of Arrive and Least.
class RankRendezvous {
 public:
  // REQUIRES: size > 0.
  explicit RankRendezvous(uint32_t size) : size_(size) {}
  RankRendezvous(const RankRendezvous&) = delete;
  RankRendezvous& operator=(const RankRendezvous&) = delete;

  // Returns once every rank has called it; what any of them wrote before is then visible to all.
  // The group's error, if it was aborted.
  absl::Status Arrive() { return Least(0).status(); }
  // The same; returns the least of the ranks' values.
  absl::StatusOr<uint64_t> Least(uint64_t value);

  // Ends every wait, now and later, with `why`; the first call's stays. REQUIRES: `why` is an
  // error.
  void Abort(const absl::Status& why);
  // OK, or why the group was aborted.
  absl::Status status() const;

 private:
  const uint32_t size_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status status_;
  uint64_t round_ = 0;  // rounds that are over
  uint32_t num_arrived_ = 0;
  uint64_t least_ = std::numeric_limits<uint64_t>::max();  // of this round so far
  // Of the last round. A rank reads it before it arrives again, so before it can change.
  uint64_t agreed_ = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_RANK_GROUP_RANK_RENDEZVOUS_H_
