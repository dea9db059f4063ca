#include "coordinator/stream/work_pool.h"

#include <utility>

#include "common/clock.h"

namespace quire {

WorkPool::WorkPool(size_t num_threads, const Limits& limits) : limits_(limits) {
  for (size_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

void WorkPool::Stop() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(stopping_, true)) return;
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
  // Its end is outside the lock, since work may hold anything.
  absl::flat_hash_map<std::string, std::deque<Piece>> dropped;
  {
    MutexLock lock(mutex_);
    dropped.swap(queues_);
    turns_.clear();
  }
}

bool WorkPool::Post(std::function<void()> work, const Terms& terms) {
  {
    MutexLock lock(mutex_);
    if (stopping_ || !pieces_.Take(terms.owner, 1, limits_.pieces, terms.share)) return false;
    if (!bytes_.Take(terms.owner, terms.num_bytes, limits_.bytes, terms.share)) {
      pieces_.Give(terms.owner, 1);
      return false;
    }
    std::deque<Piece>& queue = queues_[terms.owner];
    if (queue.empty()) turns_.push_back(terms.owner);
    queue.push_back({std::move(work), terms.num_bytes});
  }
  wake_.NotifyOne();
  return true;
}

uint32_t WorkPool::RetryAfterMs() {
  MutexLock lock(mutex_);
  const int64_t now = SteadyMicros();
  return retries_.NextMs(now, rate_.PerSecond(now), pieces_.total());
}

std::function<void()> WorkPool::TakeNext() {
  const std::string owner = std::move(turns_.front());
  turns_.pop_front();
  const auto queue = queues_.find(owner);
  Piece piece = std::move(queue->second.front());
  queue->second.pop_front();
  if (queue->second.empty()) {
    queues_.erase(queue);
  } else {
    turns_.push_back(owner);
  }
  pieces_.Give(owner, 1);
  bytes_.Give(owner, piece.num_bytes);
  return std::move(piece.run);
}

bool WorkPool::RunOne() {
  std::function<void()> work;
  {
    MutexLock lock(mutex_);
    if (stopping_ || turns_.empty()) return false;
    work = TakeNext();
  }
  work();
  return true;
}

void WorkPool::Run() {
  for (;;) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && turns_.empty()) wake_.Wait(mutex_);
      if (stopping_) return;
      work = TakeNext();
      rate_.OnFreed(SteadyMicros(), 1);
    }
    work();
  }
}

}  // namespace quire
