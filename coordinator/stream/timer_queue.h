#ifndef QUIRE_COORDINATOR_STREAM_TIMER_QUEUE_H_
#define QUIRE_COORDINATOR_STREAM_TIMER_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"
#include "coordinator/stream/timers.h"

namespace quire {

// Timers of the steady clock, on a thread of their own.
class TimerQueue final : public Timers {
 public:
  TimerQueue();
  ~TimerQueue() override { Stop(); }
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  int64_t Now() const override { return SteadyMicros(); }
  Id Schedule(int64_t at, std::function<void()> function) override;
  void Cancel(Id id) override;

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
