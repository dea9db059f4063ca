#include "clients/cli/token_equality.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

v1::TokenLogprobs Logprobs(const std::vector<float>& values) {
  v1::TokenLogprobs token;
  for (const float value : values) token.add_top()->set_logprob(value);
  return token;
}

TEST(IsTie, GapIsHeldAgainstTheWidestKnownDifference) {
  // Max |logit| is at least 10 / 2, so gaps up to 5e-5 are ties.
  EXPECT_TRUE(IsTie(Logprobs({-1, -1 - 4e-5f, -11})));
  EXPECT_FALSE(IsTie(Logprobs({-1, -1 - 6e-5f, -11})));
  EXPECT_TRUE(IsTie(Logprobs({-1, -1, -3})));
}

TEST(IsTie, WithoutAlternativesNothingIs) {
  EXPECT_FALSE(IsTie(Logprobs({})));
  EXPECT_FALSE(IsTie(Logprobs({-1})));
}

TEST(FirstDifference, EqualOutputsHaveNone) {
  EXPECT_EQ(FirstDifference({{1, 2, 3}, {1, 2, 3}}, {1, 2, 3}), std::nullopt);
  EXPECT_EQ(FirstDifference({}, {1}), std::nullopt);
}

TEST(FirstDifference, TheEarliestOfAllOutputsCounts) {
  EXPECT_EQ(FirstDifference({{1, 2, 3}, {1, 2, 9}, {1, 8, 3}}, {1, 2, 3}), 1);
}

TEST(FirstDifference, AMissingOrExtraTokenDiffers) {
  EXPECT_EQ(FirstDifference({{1, 2}}, {1, 2, 3}), 2);
  EXPECT_EQ(FirstDifference({{1, 2, 3, 4}}, {1, 2, 3}), 3);
}

}  // namespace
}  // namespace quire
