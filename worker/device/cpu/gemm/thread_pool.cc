#include "worker/device/cpu/gemm/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "scheduler/check.h"

namespace quire {
namespace {

constexpr std::chrono::microseconds kSpin{20};

// Sets FTZ and DAZ for a scope.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  const uint32_t saved_;
};

// Returns once `word` differs from `value`: spins for kSpin, then parks on a futex.
void AwaitChange(const std::atomic<uint32_t>& word, uint32_t value) {
  constexpr int kPausesPerClockRead = 16;
  for (int i = 0; i < kPausesPerClockRead; ++i) {
    if (word.load(std::memory_order_acquire) != value) return;
    _mm_pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (word.load(std::memory_order_acquire) != value) return;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  word.wait(value, std::memory_order_acquire);
}

}  // namespace

void ThreadContext::Barrier() {
  if (count_ > 1) pool_->Arrive();
}

bool ThreadContext::ClaimChunk(int64_t total, int64_t min_chunk, int64_t* begin, int64_t* end) {
  // Relaxed: the word itself is all that the threads share here; data is ordered by the barriers.
  uint64_t seen = pool_->claim_.load(std::memory_order_relaxed);
  while (true) {
    const int32_t ahead = static_cast<int32_t>(static_cast<uint32_t>(seen >> 32) - loop_);
    if (ahead > 0) return false;
    const int64_t next = ahead < 0 ? 0 : static_cast<int64_t>(seen & 0xFFFFFFFFu);
    if (next >= total) return false;
    const int64_t left = total - next;
    const int64_t size = count_ == 1 ? left : std::max(min_chunk, left / (2 * count_));
    *begin = next;
    *end = std::min(total, next + size);
    const uint64_t claimed = uint64_t{loop_} << 32 | static_cast<uint64_t>(*end);
    if (pool_->claim_.compare_exchange_weak(seen, claimed, std::memory_order_relaxed)) return true;
  }
}

ThreadPool::ThreadPool(int num_threads) {
  QUIRE_CHECK(num_threads > 0);
  contexts_.reserve(num_threads);
  for (int i = 0; i < num_threads; ++i) contexts_.push_back(ThreadContext(this, i, num_threads));
  threads_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) {
    threads_.emplace_back([this, i] { Loop(contexts_[i]); });
  }
}

ThreadPool::~ThreadPool() {
  region_ = nullptr;
  region_number_.fetch_add(1, std::memory_order_release);
  region_number_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(absl::FunctionRef<void(ThreadContext&)> fn) {
  const FlushDenormals flush_denormals;
  claim_.store(0, std::memory_order_relaxed);
  for (ThreadContext& context : contexts_) context.loop_ = 0;
  if (threads_.empty()) {
    fn(contexts_[0]);
    return;
  }
  region_ = &fn;
  region_number_.fetch_add(1, std::memory_order_release);
  region_number_.notify_all();
  fn(contexts_[0]);
  Arrive();
}

void ThreadPool::Loop(ThreadContext& context) {
  const FlushDenormals flush_denormals;
  for (uint32_t region_number = 0;; ++region_number) {
    AwaitChange(region_number_, region_number);
    if (region_ == nullptr) return;
    (*region_)(context);
    Arrive();
  }
}

void ThreadPool::Arrive() {
  // The number is stable until this thread has arrived, too.
  const uint32_t barrier_number = barrier_number_.load(std::memory_order_relaxed);
  const uint32_t last = static_cast<uint32_t>(contexts_.size()) - 1;
  if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) == last) {
    num_arrived_.store(0, std::memory_order_relaxed);
    barrier_number_.store(barrier_number + 1, std::memory_order_release);
    barrier_number_.notify_all();
  } else {
    AwaitChange(barrier_number_, barrier_number);
  }
}

}  // namespace quire
