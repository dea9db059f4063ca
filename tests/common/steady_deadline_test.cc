#include "common/steady_deadline.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

constexpr int64_t kMinute = 60'000'000;

TEST(SteadyDeadlineTest, IsAsFarAwayAsItWasSet) {
  const std::optional<int64_t> left = MicrosUntil(SteadyDeadline(kMinute));
  ASSERT_TRUE(left.has_value());
  EXPECT_LE(*left, kMinute);
  EXPECT_GT(*left, 0);
  EXPECT_LT(*MicrosUntil(SteadyDeadline(-kMinute)), 0);
}

TEST(SteadyDeadlineTest, KnowsWhatHasNoEnd) {
  EXPECT_FALSE(MicrosUntil(gpr_inf_future(GPR_CLOCK_MONOTONIC)).has_value());
  EXPECT_FALSE(MicrosUntil(gpr_inf_future(GPR_CLOCK_REALTIME)).has_value());
}

}  // namespace
}  // namespace quire
