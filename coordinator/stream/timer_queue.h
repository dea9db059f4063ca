#ifndef QUIRE_COORDINATOR_STREAM_TIMER_QUEUE_H_
#define QUIRE_COORDINATOR_STREAM_TIMER_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"

namespace quire {

// Runs functions at given times of the steady clock, one after the other on a thread of its own.
// They must return at once. Thread safe.
class TimerQueue {
 public:
  using Id = uint64_t;

  TimerQueue();
  ~TimerQueue() { Stop(); }
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // `at` in microseconds. May be called from a function that runs here.
  Id Schedule(int64_t at, std::function<void()> function);
  Id ScheduleAfter(int64_t delay, std::function<void()> function) {
    return Schedule(SteadyMicros() + delay, std::move(function));
  }
  // Does not wait for a function that is running. Unknown ids are ignored.
  void Cancel(Id id);

  // Waits for the function that is running; no other runs any more. Not from one of them.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar wake_;
  std::map<std::pair<int64_t, Id>, std::function<void()>> due_ QUIRE_GUARDED_BY(mutex_);
  std::map<Id, int64_t> times_ QUIRE_GUARDED_BY(mutex_);
  Id next_id_ QUIRE_GUARDED_BY(mutex_) = 1;
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_TIMER_QUEUE_H_
