#ifndef QUIRE_COORDINATOR_STREAM_WORK_POOL_H_
#define QUIRE_COORDINATOR_STREAM_WORK_POOL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/mutex.h"
#include "coordinator/stream/tenant_shares.h"
#include "scheduler/batch/retry_estimator.h"

namespace quire {

// Threads for work that would hold up gRPC's own: tokenizing prompts, loading tokenizers. Whoever
// has work here is served in turn: one piece of each owner's, whatever the others have queued.
// Thread safe.
class WorkPool {
 public:
  // Of what is queued.
  struct Limits {
    size_t pieces = 0;
    size_t bytes = size_t{256} << 20;
  };
  // Whose a piece of work is, and what it takes of the limits.
  struct Terms {
    std::string owner;
    size_t num_bytes = 0;  // that it holds while it waits
    double share = 1;      // of either limit that the owner's pieces may take, above 0 to 1
  };
  // Without threads, work runs in RunOne alone.
  WorkPool(size_t num_threads, const Limits& limits);
  WorkPool(size_t num_threads, size_t max_queued) : WorkPool(num_threads, Limits{max_queued}) {}
  ~WorkPool() { Stop(); }
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False: the queue is full, for this owner at least, or stopped. An owner's work begins in the
  // order of the calls.
  [[nodiscard]] bool Post(std::function<void()> work, const Terms& terms);
  [[nodiscard]] bool Post(std::function<void()> work) { return Post(std::move(work), Terms()); }
  // When one whose work was not taken should try again. Counts as told.
  uint32_t RetryAfterMs();

  // Runs what is next. False: nothing is.
  bool RunOne();

  // Waits for what runs; what is queued never runs, and is dropped. Not from the pool's own work.
  void Stop();

 private:
  struct Piece {
    std::function<void()> run;
    size_t num_bytes = 0;
  };
  void Run();
  // REQUIRES: an owner waits.
  std::function<void()> TakeNext() QUIRE_REQUIRES(mutex_);

  const Limits limits_;
  Mutex mutex_;
  CondVar wake_;
  // By owner; none is empty.
  absl::flat_hash_map<std::string, std::deque<Piece>> queues_ QUIRE_GUARDED_BY(mutex_);
  std::deque<std::string> turns_ QUIRE_GUARDED_BY(mutex_);  // the owners that wait, next first
  TenantShares pieces_ QUIRE_GUARDED_BY(mutex_);
  TenantShares bytes_ QUIRE_GUARDED_BY(mutex_);
  FreeingRate rate_ QUIRE_GUARDED_BY(mutex_);
  RetrySchedule retries_ QUIRE_GUARDED_BY(mutex_);
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_WORK_POOL_H_
