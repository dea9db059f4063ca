#include "clients/cli/arrivals.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace quire {
namespace {

std::vector<int64_t> Times(double rate, uint64_t seed, size_t count) {
  PoissonArrivals arrivals(rate, seed);
  std::vector<int64_t> times;
  for (size_t i = 0; i < count; ++i) times.push_back(arrivals.Next());
  return times;
}

TEST(PoissonArrivals, ASeedGivesTheSameTimesEverywhere) {
  EXPECT_EQ(Times(10, 7, 100), Times(10, 7, 100));
  EXPECT_NE(Times(10, 7, 100), Times(10, 8, 100));
  // Written down once: other machines and libraries must agree.
  EXPECT_EQ(Times(10, 0, 4), (std::vector<int64_t>{0, 17411, 502074, 506111}));
}

TEST(PoissonArrivals, KeepsItsRate) {
  constexpr size_t kCount = 100'000;
  const std::vector<int64_t> times = Times(50, 1, kCount);
  // The mean gap of n arrivals has a standard error of mean / sqrt(n): 0.3%.
  EXPECT_NEAR(times.back() / 1e6 / (kCount - 1), 1.0 / 50, 0.02 * 0.013);
  // Half of all exponential gaps are shorter than ln 2 of the mean.
  size_t num_short = 0;
  for (size_t i = 1; i < kCount; ++i) num_short += times[i] - times[i - 1] < 0.6931 * 20'000;
  EXPECT_NEAR(num_short / static_cast<double>(kCount), 0.5, 0.01);
}

TEST(PoissonArrivals, AnInfiniteRateIsAllAtOnce) {
  EXPECT_EQ(Times(std::numeric_limits<double>::infinity(), 1, 3), (std::vector<int64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace quire
