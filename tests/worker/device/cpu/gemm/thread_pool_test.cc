#include "worker/device/cpu/gemm/thread_pool.h"

#include <immintrin.h>

#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(ThreadPoolTest, RunsOnceOnEveryThread) {
  for (int num_threads = 1; num_threads <= 4; ++num_threads) {
    ThreadPool pool(num_threads);
    ASSERT_EQ(pool.num_threads(), num_threads);
    std::vector<int> calls(num_threads, 0);
    for (int run = 0; run < 200; ++run) {
      pool.Run([&](ThreadContext& context) {
        EXPECT_EQ(context.count(), num_threads);
        ++calls[context.index()];
      });
    }
    EXPECT_EQ(calls, std::vector<int>(num_threads, 200));
  }
}

TEST(ThreadPoolTest, CallerIsThreadZero) {
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  pool.Run([&](ThreadContext& context) {
    EXPECT_EQ(context.index() == 0, std::this_thread::get_id() == caller);
  });
}

// Plain (not atomic) writes of one stage are read by the neighbour in the next: a barrier that lets
// anyone through early gives a wrong sum, and a data race under ThreadSanitizer.
TEST(ThreadPoolTest, BarrierSeparatesStages) {
  constexpr int kStages = 2000;
  for (int num_threads = 2; num_threads <= 4; ++num_threads) {
    ThreadPool pool(num_threads);
    std::vector<int64_t> values(num_threads, 1);
    std::vector<int64_t> next(num_threads, 0);
    pool.Run([&](ThreadContext& context) {
      const int i = context.index();
      for (int stage = 0; stage < kStages; ++stage) {
        next[i] = values[(i + 1) % num_threads] + 1;
        context.Barrier();
        values[i] = next[i];
        context.Barrier();
      }
    });
    EXPECT_EQ(values, std::vector<int64_t>(num_threads, kStages + 1));
  }
}

TEST(ThreadPoolTest, ChunksCoverEachLoopOnceWithoutBarriersBetween) {
  std::mt19937 random(7);
  for (int num_threads = 1; num_threads <= 4; ++num_threads) {
    ThreadPool pool(num_threads);
    for (int run = 0; run < 20; ++run) {
      std::vector<int64_t> totals(100);
      for (int64_t& total : totals) total = random() % 40;
      const int64_t min_chunk = 1 + random() % 5;
      std::vector<std::vector<int>> covered(totals.size());
      for (size_t loop = 0; loop < totals.size(); ++loop) covered[loop].resize(totals[loop]);
      pool.Run([&](ThreadContext& context) {
        for (size_t loop = 0; loop < totals.size(); ++loop) {
          context.ForEachChunk(totals[loop], min_chunk, [&](int64_t begin, int64_t end) {
            ASSERT_LT(begin, end);
            ASSERT_LE(end, totals[loop]);
            for (int64_t i = begin; i < end; ++i) ++covered[loop][i];
          });
        }
      });
      for (size_t loop = 0; loop < totals.size(); ++loop) {
        EXPECT_EQ(covered[loop], std::vector<int>(totals[loop], 1)) << "loop " << loop;
      }
    }
  }
}

TEST(ThreadPoolTest, FlushesDenormalsInsideAndRestoresTheCaller) {
  const uint32_t before = _mm_getcsr();
  for (int num_threads : {1, 3}) {
    ThreadPool pool(num_threads);
    std::vector<float> products(num_threads, 1.0f);
    std::vector<float> sums(num_threads, 1.0f);
    const volatile float smallest_normal = 0x1p-126f;
    const volatile float denormal = 0x1p-130f;
    pool.Run([&](ThreadContext& context) {
      products[context.index()] = smallest_normal * 0.5f;  // FTZ
      sums[context.index()] = denormal * 0x1p20f;          // DAZ
    });
    EXPECT_EQ(products, std::vector<float>(num_threads, 0.0f));
    EXPECT_EQ(sums, std::vector<float>(num_threads, 0.0f));
    EXPECT_EQ(smallest_normal * 0.5f, 0x1p-127f);
  }
  constexpr uint32_t kControlBits = 0xFFC0;
  EXPECT_EQ(_mm_getcsr() & kControlBits, before & kControlBits);
}

}  // namespace
}  // namespace quire
