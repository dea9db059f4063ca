#include "coordinator/stream/work_pool.h"

#include <utility>

#include "common/clock.h"

namespace quire {

WorkPool::WorkPool(size_t num_threads, size_t max_queued) : max_queued_(max_queued) {
  for (size_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

void WorkPool::Stop() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(stopping_, true)) return;
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkPool::Post(std::function<void()> work) {
  {
    MutexLock lock(mutex_);
    if (stopping_ || queue_.size() >= max_queued_) return false;
    queue_.push_back(std::move(work));
  }
  wake_.NotifyOne();
  return true;
}

uint32_t WorkPool::RetryAfterMs() {
  MutexLock lock(mutex_);
  const int64_t now = SteadyMicros();
  return retries_.NextMs(now, rate_.PerSecond(now), queue_.size());
}

bool WorkPool::RunOne() {
  std::function<void()> work;
  {
    MutexLock lock(mutex_);
    if (stopping_ || queue_.empty()) return false;
    work = std::move(queue_.front());
    queue_.pop_front();
  }
  work();
  return true;
}

void WorkPool::Run() {
  for (;;) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && queue_.empty()) wake_.Wait(mutex_);
      if (stopping_) return;
      work = std::move(queue_.front());
      queue_.pop_front();
      rate_.OnFreed(SteadyMicros(), 1);
    }
    work();
  }
}

}  // namespace quire
