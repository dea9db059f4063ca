#include "scheduler/kv/kv_manager.h"

#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace quire {
namespace {

std::vector<TokenId> Tokens(uint32_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class KvManagerTest : public testing::Test {
 protected:
  // Computes and gives back a sequence of these tokens, so that its full blocks are cached.
  void Run(KvManager& kv, const std::vector<TokenId>& tokens, std::string_view salt = "") {
    BlockTable table;
    kv.AdoptPrefix(salt, tokens, tokens.size() - 1, &table);
    ASSERT_TRUE(kv.Reserve(tokens.size(), &table));
    kv.Commit(tokens, tokens.size(), &table);
    kv.Release(&table);
  }
  uint32_t Hit(KvManager& kv, const std::vector<TokenId>& tokens, std::string_view salt = "") {
    BlockTable table;
    return kv.AdoptPrefix(salt, tokens, tokens.size(), &table);
  }

  KvManager kv_{{.num_blocks = 8, .block_size = 4}};
};

TEST_F(KvManagerTest, ReservesWholeBlocksAndNoneWhenTheyDoNotSuffice) {
  BlockTable table;
  kv_.AdoptPrefix("", {}, 0, &table);
  ASSERT_TRUE(kv_.Reserve(5, &table));
  EXPECT_EQ(table.num_blocks(), 2u);
  ASSERT_TRUE(kv_.Reserve(8, &table));
  EXPECT_EQ(table.num_blocks(), 2u);
  EXPECT_FALSE(kv_.Reserve(33, &table));
  EXPECT_EQ(table.num_blocks(), 2u);
  ASSERT_TRUE(kv_.Reserve(32, &table));
  EXPECT_EQ(kv_.pool().num_available(), 0u);
}

TEST_F(KvManagerTest, FindsTheLongestCachedPrefix) {
  Run(kv_, Tokens(14));
  EXPECT_EQ(kv_.pool().num_cached(), 3u);
  EXPECT_EQ(Hit(kv_, Tokens(14)), 12u);
  EXPECT_EQ(Hit(kv_, Tokens(11)), 8u);
  std::vector<TokenId> other = Tokens(14);
  other[5] = 99;
  EXPECT_EQ(Hit(kv_, other), 4u);
  EXPECT_EQ(Hit(kv_, Tokens(14, 1)), 0u);
}

TEST_F(KvManagerTest, TellsWhenACachedPrefixHasGrown) {
  const std::vector<TokenId> tokens = Tokens(14);
  const auto end_of = [&](uint32_t max_tokens) {
    BlockTable table;
    kv_.AdoptPrefix("", tokens, max_tokens, &table);
    return kv_.EndOfPrefix(table, max_tokens);
  };
  const PrefixEnd none = end_of(13);
  EXPECT_FALSE(kv_.CanExtend(none, tokens));
  Run(kv_, Tokens(8));
  EXPECT_TRUE(kv_.CanExtend(none, tokens));
  const PrefixEnd two = end_of(13);
  EXPECT_EQ(two.num_tokens, 8u);
  EXPECT_FALSE(kv_.CanExtend(two, tokens));
  const PrefixEnd limited = end_of(11);
  Run(kv_, Tokens(12));
  EXPECT_TRUE(kv_.CanExtend(two, tokens));
  EXPECT_FALSE(kv_.CanExtend(limited, tokens));  // 12 tokens are more than it may have
}

TEST_F(KvManagerTest, SaltsAreSeparate) {
  Run(kv_, Tokens(8), "a");
  EXPECT_EQ(Hit(kv_, Tokens(8), "a"), 8u);
  EXPECT_EQ(Hit(kv_, Tokens(8), "b"), 0u);
  EXPECT_EQ(Hit(kv_, Tokens(8)), 0u);
}

TEST_F(KvManagerTest, AHitIsLimitedToMaxTokens) {
  Run(kv_, Tokens(8));
  BlockTable table;
  EXPECT_EQ(kv_.AdoptPrefix("", Tokens(8), 7, &table), 4u);
}

TEST_F(KvManagerTest, EvictsTheEndOfAChainFirst) {
  Run(kv_, Tokens(16));  // 4 blocks cached, 4 free
  BlockTable table;
  kv_.AdoptPrefix("", {}, 0, &table);
  ASSERT_TRUE(kv_.Reserve(4 * 5, &table));  // takes one of the cached
  EXPECT_EQ(Hit(kv_, Tokens(16)), 12u);
}

TEST_F(KvManagerTest, OnlyFullBlocksThatWereComputedAreFound) {
  BlockTable table;
  const std::vector<TokenId> tokens = Tokens(10);
  kv_.AdoptPrefix("", tokens, 9, &table);
  ASSERT_TRUE(kv_.Reserve(10, &table));
  kv_.Commit(tokens, 7, &table);
  EXPECT_EQ(Hit(kv_, tokens), 4u);
  EXPECT_EQ(kv_.NextCommit(table), 8u);
  kv_.Commit(tokens, 10, &table);
  EXPECT_EQ(Hit(kv_, tokens), 8u);
}

TEST_F(KvManagerTest, SharedBlocksAreHeldTwice) {
  const std::vector<TokenId> tokens = Tokens(9);
  BlockTable source;
  kv_.AdoptPrefix("", tokens, 8, &source);
  ASSERT_TRUE(kv_.Reserve(9, &source));
  BlockTable table;
  kv_.ShareBlocks("", tokens, source, 2, &table);
  EXPECT_EQ(table.block(0), source.block(0));
  EXPECT_EQ(kv_.pool().num_leases(table.block(1)), 2u);
  ASSERT_TRUE(kv_.Reserve(9, &table));
  EXPECT_NE(table.block(2), source.block(2));
  kv_.Release(&source);
  EXPECT_EQ(kv_.pool().num_leased(), 3u);
}

TEST(KvManagerWithoutCacheTest, KeepsNothing) {
  KvManager kv({.num_blocks = 4, .block_size = 4, .enable_prefix_caching = false});
  BlockTable table;
  EXPECT_EQ(kv.AdoptPrefix("", Tokens(8), 7, &table), 0u);
  ASSERT_TRUE(kv.Reserve(8, &table));
  kv.Commit(Tokens(8), 8, &table);
  kv.Release(&table);
  EXPECT_EQ(kv.pool().num_free(), 4u);
}

}  // namespace
}  // namespace quire
