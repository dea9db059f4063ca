#include "scheduler/batch/waiting_queue.h"

#include <algorithm>

#include "scheduler/check.h"

namespace quire {

void WaitingQueue::Insert(ScheduledSequence* sequence) {
  Level& level = levels_[sequence->spec.priority];
  QUIRE_CHECK(level.all.insert(sequence).second);
  if (sequence->was_let_in) {
    level.preempted.insert(sequence);
  } else {
    Lane& lane = level.lanes[sequence->spec.tenant];
    lane.account = sequence->account;
    lane.sequences.insert(sequence);
  }
  ++size_;
  if (const auto deadline = sequence->spec.queue_deadline; deadline.has_value()) {
    next_deadline_ = std::min(next_deadline_.value_or(*deadline), *deadline);
  }
}

void WaitingQueue::Erase(ScheduledSequence* sequence) {
  const auto found = levels_.find(sequence->spec.priority);
  QUIRE_CHECK(found != levels_.end());
  Level& level = found->second;
  QUIRE_CHECK(level.all.erase(sequence) == 1);
  if (sequence->was_let_in) {
    level.preempted.erase(sequence);
  } else {
    const auto lane = level.lanes.find(sequence->spec.tenant);
    lane->second.sequences.erase(sequence);
    if (lane->second.sequences.empty()) level.lanes.erase(lane);
  }
  if (level.held == sequence) level.held = nullptr;
  if (level.all.empty()) levels_.erase(found);
  if (--size_ == 0) next_deadline_.reset();
}

void WaitingQueue::Enter(ScheduledSequence* sequence) {
  sequence->account = shares_.Enter(sequence->spec.priority, sequence->spec.tenant);
  Insert(sequence);
}

void WaitingQueue::LetIn(ScheduledSequence* sequence, uint32_t num_input_tokens) {
  Erase(sequence);
  if (sequence->was_let_in) return;
  sequence->was_let_in = true;
  shares_.LetIn(sequence->account, num_input_tokens);
}

void WaitingQueue::ComeBack(ScheduledSequence* sequence) {
  QUIRE_CHECK(sequence->was_let_in);
  Insert(sequence);
}

void WaitingQueue::Leave(ScheduledSequence* sequence) {
  if (sequence->state == ScheduledSequence::State::kWaiting) Erase(sequence);
  shares_.Leave(sequence->account, sequence->was_let_in);
  sequence->account = nullptr;
}

ScheduledSequence* WaitingQueue::Next(const IsReady& is_ready) const {
  const ServedBefore before;
  const ScheduledSequence* tried = nullptr;  // the first of the level that was asked last
  for (size_t i = 0; i < levels_.size(); ++i) {
    const Level* next = nullptr;
    for (const auto& [priority, level] : levels_) {
      ScheduledSequence* const first = *level.all.begin();
      if (tried != nullptr && !before(tried, first)) continue;
      if (next == nullptr || before(first, *next->all.begin())) next = &level;
    }
    if (ScheduledSequence* sequence = NextOf(*next, is_ready); sequence != nullptr) return sequence;
    tried = *next->all.begin();
  }
  return nullptr;
}

ScheduledSequence* WaitingQueue::NextOf(const Level& level, const IsReady& is_ready) {
  for (ScheduledSequence* sequence : level.preempted) {
    if (is_ready(*sequence)) return sequence;
  }
  if (level.held != nullptr && is_ready(*level.held)) return level.held;
  const ServedBefore before;
  ScheduledSequence* next = nullptr;
  for (const auto& [tenant, lane] : level.lanes) {
    const auto ready =
        std::find_if(lane.sequences.begin(), lane.sequences.end(),
                     [&](const ScheduledSequence* sequence) { return is_ready(*sequence); });
    if (ready == lane.sequences.end()) continue;
    const uint64_t counter = lane.account->counter;
    if (next == nullptr || counter < next->account->counter ||
        (counter == next->account->counter && before(*ready, next))) {
      next = *ready;
    }
  }
  return next;
}

void WaitingQueue::Hold(ScheduledSequence* sequence) {
  // What was preempted is next in any case, and takes no other's place.
  if (!sequence->was_let_in) levels_.at(sequence->spec.priority).held = sequence;
}

std::vector<ScheduledSequence*> WaitingQueue::Expired(Micros now) const {
  std::vector<ScheduledSequence*> expired;
  for (const auto& [priority, level] : levels_) {
    for (ScheduledSequence* sequence : level.all) {
      if (sequence->spec.queue_deadline.has_value() && *sequence->spec.queue_deadline <= now) {
        expired.push_back(sequence);
      }
    }
  }
  return expired;
}

void WaitingQueue::RefreshDeadline() {
  next_deadline_.reset();
  for (const auto& [priority, level] : levels_) {
    for (const ScheduledSequence* sequence : level.all) {
      if (const auto deadline = sequence->spec.queue_deadline; deadline.has_value()) {
        next_deadline_ = std::min(next_deadline_.value_or(*deadline), *deadline);
      }
    }
  }
}

}  // namespace quire
