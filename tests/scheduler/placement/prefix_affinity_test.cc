#include "scheduler/placement/prefix_affinity.h"

#include <numeric>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace quire {
namespace {

std::vector<TokenId> Tokens(uint32_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<PrefixHash> Chunks(std::string_view salt, const std::vector<TokenId>& prompt) {
  return PrefixAffinity::Chunks({1, 2}, salt, prompt);
}

TEST(PrefixAffinityTest, MatchesTheCommonBeginning) {
  PrefixAffinity affinity(100);
  affinity.Record(Chunks("m", Tokens(200)), 7);
  std::vector<TokenId> other = Tokens(200);
  other[130] = 9999;  // in the third chunk
  EXPECT_EQ(affinity.MatchedTokens(Chunks("m", Tokens(200)), 7), 192u);
  EXPECT_EQ(affinity.MatchedTokens(Chunks("m", other), 7), 128u);
  EXPECT_EQ(affinity.MatchedTokens(Chunks("m", Tokens(200, 1)), 7), 0u);
  EXPECT_EQ(affinity.MatchedTokens(Chunks("m", Tokens(63)), 7), 0u);
}

TEST(PrefixAffinityTest, KeepsWorkersAndSaltsApart) {
  PrefixAffinity affinity(100);
  affinity.Record(Chunks("m", Tokens(64)), 7);
  EXPECT_EQ(affinity.MatchedTokens(Chunks("m", Tokens(64)), 8), 0u);
  EXPECT_EQ(affinity.MatchedTokens(Chunks("n", Tokens(64)), 7), 0u);
}

TEST(PrefixAffinityTest, ForgetsTheLeastRecentlyUsedFromItsEnd) {
  PrefixAffinity affinity(4);
  const auto old = Chunks("m", Tokens(128));
  const auto used = Chunks("m", Tokens(128, 1000));
  const auto fresh = Chunks("m", Tokens(64, 5000));
  affinity.Record(old, 1);
  affinity.Record(used, 1);
  affinity.Record(old, 1);  // now `used` is the oldest
  affinity.Record(fresh, 1);
  EXPECT_EQ(affinity.num_chunks(), 4u);
  EXPECT_EQ(affinity.MatchedTokens(old, 1), 128u);
  EXPECT_EQ(affinity.MatchedTokens(used, 1), 64u);
  EXPECT_EQ(affinity.MatchedTokens(fresh, 1), 64u);
}

}  // namespace
}  // namespace quire
