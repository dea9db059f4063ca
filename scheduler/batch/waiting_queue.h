#ifndef QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_
#define QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_set.h"
#include "scheduler/batch/scheduled_sequence.h"

namespace quire {

// The sequences that hold no slot, in the order in which they are to be served. Holds pointers
// only.
class WaitingQueue {
 public:
  using const_iterator = absl::btree_set<ScheduledSequence*, ServedBefore>::const_iterator;

  void Push(ScheduledSequence* sequence);
  void Erase(ScheduledSequence* sequence);

  // Those whose queue deadline is not after `now`, in order. They stay queued.
  std::vector<ScheduledSequence*> Expired(Micros now) const;
  // The earliest queue deadline, or none. May be too early after an Erase, never too late.
  std::optional<Micros> next_deadline() const { return next_deadline_; }
  // Makes next_deadline() exact.
  void RefreshDeadline();

  const_iterator begin() const { return sequences_.begin(); }
  const_iterator end() const { return sequences_.end(); }
  uint32_t size() const { return static_cast<uint32_t>(sequences_.size()); }
  bool empty() const { return sequences_.empty(); }

 private:
  absl::btree_set<ScheduledSequence*, ServedBefore> sequences_;
  std::optional<Micros> next_deadline_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_
