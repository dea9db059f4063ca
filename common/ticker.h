#ifndef QUIRE_COMMON_TICKER_H_
#define QUIRE_COMMON_TICKER_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "common/mutex.h"

namespace quire {

// Runs a function at once and then every `period` microseconds, on a thread of its own, until it is
// destroyed; the destructor waits for a run that is under way. Runs that a slow one is too late for
// are left out.
class Ticker {
 public:
  Ticker(int64_t period, std::function<void()> tick)
      : period_(period), thread_([this, tick = std::move(tick)] { Run(tick); }) {}
  ~Ticker() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    wake_.NotifyOne();
    thread_.join();
  }
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  void Run(const std::function<void()>& tick) {
    for (int64_t next = SteadyMicros();; next = std::max(next + period_, SteadyMicros())) {
      {
        MutexLock lock(mutex_);
        while (!stopping_ && wake_.WaitUntil(mutex_, FromSteadyMicros(next))) {
        }
        if (stopping_) return;
      }
      tick();
    }
  }

  const int64_t period_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_TICKER_H_
