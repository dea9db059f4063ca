#include "scheduler/batch/waiting_queue.h"

#include <algorithm>

#include "scheduler/check.h"

namespace quire {

void WaitingQueue::Push(ScheduledSequence* sequence) {
  QUIRE_CHECK(sequences_.insert(sequence).second);
  if (const auto deadline = sequence->spec.queue_deadline; deadline.has_value()) {
    next_deadline_ = std::min(next_deadline_.value_or(*deadline), *deadline);
  }
}

void WaitingQueue::Erase(ScheduledSequence* sequence) {
  QUIRE_CHECK(sequences_.erase(sequence) == 1);
  if (sequences_.empty()) next_deadline_.reset();
}

std::vector<ScheduledSequence*> WaitingQueue::Expired(Micros now) const {
  std::vector<ScheduledSequence*> expired;
  for (ScheduledSequence* sequence : sequences_) {
    if (sequence->spec.queue_deadline.has_value() && *sequence->spec.queue_deadline <= now) {
      expired.push_back(sequence);
    }
  }
  return expired;
}

void WaitingQueue::RefreshDeadline() {
  next_deadline_.reset();
  for (const ScheduledSequence* sequence : sequences_) {
    if (const auto deadline = sequence->spec.queue_deadline; deadline.has_value()) {
      next_deadline_ = std::min(next_deadline_.value_or(*deadline), *deadline);
    }
  }
}

}  // namespace quire
