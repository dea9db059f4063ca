#include "clients/cli/sample_stats.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

// Expected figures are numpy's: mean, std, percentile of the same values.
TEST(SampleStats, AgreesWithNumpy) {
  const SampleStats stats({4, 1, 3, 2, 10});
  EXPECT_DOUBLE_EQ(stats.mean(), 4);
  EXPECT_NEAR(stats.stddev(), 3.1622776601683795, 1e-12);
  EXPECT_DOUBLE_EQ(stats.median(), 3);
  EXPECT_DOUBLE_EQ(stats.percentile(0), 1);
  EXPECT_DOUBLE_EQ(stats.percentile(100), 10);
  EXPECT_DOUBLE_EQ(stats.percentile(90), 7.6);
  EXPECT_NEAR(stats.percentile(99), 9.76, 1e-12);
}

TEST(SampleStats, MedianOfAnEvenSampleIsBetween) {
  EXPECT_DOUBLE_EQ(SampleStats({1, 2, 3, 10}).median(), 2.5);
}

TEST(SampleStats, OneValueIsEveryPercentile) {
  const SampleStats stats({7});
  EXPECT_EQ(stats.percentile(1), 7);
  EXPECT_EQ(stats.percentile(99), 7);
  EXPECT_EQ(stats.stddev(), 0);
}

TEST(SampleStats, AnEmptySampleIsZero) {
  const SampleStats stats({});
  EXPECT_EQ(stats.mean(), 0);
  EXPECT_EQ(stats.stddev(), 0);
  EXPECT_EQ(stats.median(), 0);
}

}  // namespace
}  // namespace quire
