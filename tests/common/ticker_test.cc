#include "common/ticker.h"

#include <gtest/gtest.h>

#include <thread>

namespace quire {
namespace {

TEST(TickerTest, ASlowRunIsNotMadeUpFor) {
  constexpr int64_t kPeriod = 2'000;
  constexpr int kRuns = 10;
  Mutex mutex;
  CondVar changed;
  int runs = 0;
  int64_t slow_until = 0;
  int64_t last = 0;
  Ticker ticker(kPeriod, [&] {
    const int64_t now = SteadyMicros();
    MutexLock lock(mutex);
    if (runs == 0) {
      slow_until = now + 50 * kPeriod;
      std::this_thread::sleep_until(FromSteadyMicros(slow_until));
    } else if (runs == kRuns) {
      last = now;
    }
    ++runs;
    changed.NotifyAll();
  });
  MutexLock lock(mutex);
  while (runs <= kRuns) changed.Wait(mutex);
  EXPECT_GE(last, slow_until + (kRuns - 1) * kPeriod);
}

}  // namespace
}  // namespace quire
