#ifndef QUIRE_SCHEDULER_BATCH_RETRY_ESTIMATOR_H_
#define QUIRE_SCHEDULER_BATCH_RETRY_ESTIMATOR_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "scheduler/sequence.h"

namespace quire {

// When who was refused should try again: spreads the refused over the places that will become free.
//
// Places become free at a rate. Each refusal is told the time of the next place that no refusal
// before it was told, so that those who keep to it do not all come back for the same one. No
// refusal is told longer than it takes until everything that is here now has ended: whether the
// others come back is unknown. Deterministic. Not thread safe.
class RetrySchedule {
 public:
  static constexpr uint32_t kLeastMs = 50;
  static constexpr uint32_t kMostMs = 30'000;
  // Where the rate is unknown yet.
  static constexpr uint32_t kUnknownMs = 500;

  // What to tell one more that is refused. `freed_per_s`: the rate, 0 if it is unknown; `num_here`:
  // how many places are taken.
  uint32_t NextMs(Micros now, double freed_per_s, uint64_t num_here);

 private:
  Micros told_ = 0;  // the time of the last place that was told
};

// Measures the rate at which places become free, over the last kMaxEvents moments at which some
// did. Not thread safe.
class FreeingRate {
 public:
  static constexpr size_t kMaxEvents = 64;

  void OnFreed(Micros now, uint32_t count);
  // 0: unknown. Falls while nothing becomes free.
  double PerSecond(Micros now) const;

 private:
  std::deque<std::pair<Micros, uint32_t>> events_;  // when, and how many
  uint64_t count_ = 0;                              // of them all
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_RETRY_ESTIMATOR_H_
