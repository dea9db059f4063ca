#ifndef QUIRE_COORDINATOR_STREAM_WORK_POOL_H_
#define QUIRE_COORDINATOR_STREAM_WORK_POOL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "scheduler/batch/retry_estimator.h"

namespace quire {

// Threads for work that would hold up gRPC's own: tokenizing prompts, loading tokenizers. Thread
// safe.
class WorkPool {
 public:
  // Without threads, work runs in RunOne alone.
  WorkPool(size_t num_threads, size_t max_queued);
  ~WorkPool() { Stop(); }
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False: the queue is full, or stopped. Work begins in the order of the calls.
  [[nodiscard]] bool Post(std::function<void()> work);
  // When one whose work was not taken should try again. Counts as told.
  uint32_t RetryAfterMs();

  // Runs what has waited longest. False: nothing did.
  bool RunOne();

  // Waits for what runs; what is queued never runs. Not from the pool's own work.
  void Stop();

 private:
  void Run();

  const size_t max_queued_;
  Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> queue_ QUIRE_GUARDED_BY(mutex_);
  FreeingRate rate_ QUIRE_GUARDED_BY(mutex_);
  RetrySchedule retries_ QUIRE_GUARDED_BY(mutex_);
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_WORK_POOL_H_
