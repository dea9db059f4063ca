#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_THREAD_POOL_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace quire {

class ThreadPool;

// One thread's view of a parallel region. Every thread of the region must make the same sequence of
// Barrier and ForEachChunk calls; which chunks a thread gets varies from run to run.
class ThreadContext {
 public:
  int index() const { return index_; }  // 0: the thread that called Run
  int count() const { return count_; }

  // Returns once all threads of the region have called it. What any of them wrote before is then
  // visible to all. Waits at most 20 µs on the processor, then parks.
  void Barrier();

  // Calls fn(begin, end) until the region's threads have together covered [0, total) once. Chunks
  // are contiguous, claimed as threads become free and shrink towards the end, from a share of 1 /
  // (2 * count()) of what is left down to `min_chunk`, so a thread that the host takes away for a
  // while does not hold up the others. No barrier, before or after: results of other threads'
  // chunks are to be read after the next Barrier. REQUIRES: 0 <= total < 2^31, min_chunk > 0.
  template <typename Fn>
  void ForEachChunk(int64_t total, int64_t min_chunk, Fn&& fn) {
    ++loop_;
    int64_t begin = 0;
    int64_t end = 0;
    while (ClaimChunk(total, min_chunk, &begin, &end)) fn(begin, end);
  }

 private:
  friend class ThreadPool;
  ThreadContext(ThreadPool* pool, int index, int count)
      : pool_(pool), index_(index), count_(count) {}

  bool ClaimChunk(int64_t total, int64_t min_chunk, int64_t* begin, int64_t* end);

  ThreadPool* pool_;
  int index_;
  int count_;
  uint32_t loop_ = 0;  // how many ForEachChunk loops of this region the thread has entered
};

// The worker's kernel threads: made once, reused for every step. A step is one Run; its stages are
// separated by ThreadContext::Barrier, which costs well under a microsecond when all threads are on
// a processor. Threads without work spin for at most 20 µs and then park.
//
// Inside a region denormals are flushed to zero and taken as zero (FTZ, DAZ), on every thread: the
// numeric recipe asks for it (gemm.h). The caller's floating-point mode is back when Run returns.
//
// One thread at a time may call Run, and fn must not.
class ThreadPool {
 public:
  // Starts num_threads - 1 threads. REQUIRES: num_threads > 0.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(contexts_.size()); }

  // Runs fn once on every thread, on the calling one with index 0, and returns when all are
  // through.
  void Run(absl::FunctionRef<void(ThreadContext&)> fn);

 private:
  friend class ThreadContext;

  void Loop(ThreadContext& context);
  void Arrive();

  std::vector<ThreadContext> contexts_;
  std::vector<std::thread> threads_;
  const absl::FunctionRef<void(ThreadContext&)>* region_ = nullptr;  // null: the threads end

  // A line of its own for each word that several threads write.
  alignas(64) std::atomic<uint32_t> region_number_{0};   // how many regions were started
  alignas(64) std::atomic<uint32_t> num_arrived_{0};     // at the current barrier
  alignas(64) std::atomic<uint32_t> barrier_number_{0};  // how many barriers were passed
  // The loop being shared out (upper half) and its first unclaimed index (lower half). One word is
  // enough for all loops of a region: a thread enters loop i + 1 only when nothing of loop i is
  // left, so whoever finds a later loop here has nothing left to claim in his.
  alignas(64) std::atomic<uint64_t> claim_{0};
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_THREAD_POOL_H_
