#ifndef QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_
#define QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_set.h"
#include "scheduler/batch/fair_share.h"
#include "scheduler/batch/scheduled_sequence.h"

namespace quire {

// The sequences that hold no slot, and who of them is next. Holds pointers only.
//
// Next is, of the priority whose first sequence by ServedBefore is before those of the others:
//   1. what was preempted, by ServedBefore: it was let in before;
//   2. the sequence that was next already and found no room (Hold): else small requests of other
//      tenants could take the blocks that it waits for, for ever;
//   3. of the tenant with the least counter (FairShare), the sequence that came first; between
//      equal counters, the sequence that came first.
// So priorities and their aging decide between whole priorities, and within one tenants are equal.
class WaitingQueue {
 public:
  using IsReady = std::function<bool(const ScheduledSequence&)>;

  explicit WaitingQueue(const TenantWeights& weights) : shares_(weights) {}

  // A new sequence.
  void Enter(ScheduledSequence* sequence);
  // It runs from now on. `num_input_tokens` of its prompt are computed; they are charged the first
  // time.
  void LetIn(ScheduledSequence* sequence, uint32_t num_input_tokens);
  // It was preempted.
  void ComeBack(ScheduledSequence* sequence);
  // So many tokens of a sequence that was let in have come out.
  void Charge(const ScheduledSequence& sequence, uint32_t num_output_tokens) {
    shares_.ChargeOutput(sequence.account, num_output_tokens);
  }
  // It has ended, waiting or running.
  void Leave(ScheduledSequence* sequence);

  // The next of those that are ready; null if none is.
  ScheduledSequence* Next(const IsReady& is_ready) const;
  // What Next gave finds no room: it stays next of its priority.
  void Hold(ScheduledSequence* sequence);

  // Those whose queue deadline is not after `now`. They stay queued.
  std::vector<ScheduledSequence*> Expired(Micros now) const;
  // The earliest queue deadline, or none. May be too early after one has left, never too late.
  std::optional<Micros> next_deadline() const { return next_deadline_; }
  // Makes next_deadline() exact.
  void RefreshDeadline();

  uint32_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  using Sequences = absl::btree_set<ScheduledSequence*, ServedBefore>;
  struct Lane {
    const FairShare::Account* account = nullptr;
    Sequences sequences;
  };
  // What waits at one priority.
  struct Level {
    Sequences all;
    Sequences preempted;
    std::map<std::string, Lane> lanes;  // the others, by tenant; none is empty
    ScheduledSequence* held = nullptr;
  };
  void Insert(ScheduledSequence* sequence);
  void Erase(ScheduledSequence* sequence);
  static ScheduledSequence* NextOf(const Level& level, const IsReady& is_ready);

  FairShare shares_;
  std::map<int32_t, Level> levels_;  // by priority; none is empty
  uint32_t size_ = 0;
  std::optional<Micros> next_deadline_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_WAITING_QUEUE_H_
