#ifndef QUIRE_COORDINATOR_STREAM_TIMERS_H_
#define QUIRE_COORDINATOR_STREAM_TIMERS_H_

#include <cstdint>
#include <functional>
#include <utility>

namespace quire {

// The time, and functions that run at given times, one after the other; they must return at once.
// Everything below the edge takes its time from here, so that a test can make it (TimerQueue is
// the real one). Thread safe.
class Timers {
 public:
  using Id = uint64_t;  // never 0

  virtual ~Timers() = default;
  // Steady, in microseconds.
  virtual int64_t Now() const = 0;
  // `at` as Now. May be called from a function that runs here.
  virtual Id Schedule(int64_t at, std::function<void()> function) = 0;
  Id ScheduleAfter(int64_t delay, std::function<void()> function) {
    return Schedule(Now() + delay, std::move(function));
  }
  // Does not wait for a function that is running. Unknown ids are ignored.
  virtual void Cancel(Id id) = 0;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_TIMERS_H_
