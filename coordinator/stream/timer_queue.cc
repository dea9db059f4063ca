#include "coordinator/stream/timer_queue.h"

namespace quire {

TimerQueue::TimerQueue() : thread_([this] { Run(); }) {}

void TimerQueue::Stop() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(stopping_, true)) return;
  }
  wake_.NotifyOne();
  thread_.join();
}

Timers::Id TimerQueue::Schedule(int64_t at, std::function<void()> function) {
  Id id;
  bool is_first;
  {
    MutexLock lock(mutex_);
    id = next_id_++;
    const auto entry = due_.emplace(std::pair(at, id), std::move(function)).first;
    times_[id] = at;
    is_first = entry == due_.begin();
  }
  if (is_first) wake_.NotifyOne();
  return id;
}

void TimerQueue::Cancel(Id id) {
  std::function<void()> dropped;  // destroyed outside the lock: it may own what schedules again
  MutexLock lock(mutex_);
  const auto time = times_.find(id);
  if (time == times_.end()) return;
  const auto entry = due_.find({time->second, id});
  dropped = std::move(entry->second);
  due_.erase(entry);
  times_.erase(time);
}

void TimerQueue::Run() {
  for (;;) {
    std::function<void()> function;
    {
      MutexLock lock(mutex_);
      for (;;) {
        if (stopping_) return;
        if (due_.empty()) {
          wake_.Wait(mutex_);
        } else if (const int64_t first = due_.begin()->first.first; SteadyMicros() < first) {
          wake_.WaitUntil(mutex_, FromSteadyMicros(first));
        } else {
          break;
        }
      }
      const auto entry = due_.begin();
      function = std::move(entry->second);
      times_.erase(entry->first.second);
      due_.erase(entry);
    }
    function();
  }
}

}  // namespace quire
