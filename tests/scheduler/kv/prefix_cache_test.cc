#include "scheduler/kv/prefix_cache.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>
#include "scheduler/kv/prefix_hash.h"

namespace quire {
namespace {

// The first two vectors of the reference implementation's vectors_sip128: key bytes 0..15, messages
// of 0 and 1 byte.
TEST(PrefixHashTest, IsSipHash128) {
  const PrefixHashKey key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  const PrefixHash empty = SipHash128(key, nullptr, 0);
  EXPECT_EQ(empty.low, 0xe6a825ba047f81a3u);
  EXPECT_EQ(empty.high, 0x930255c71472f66du);
  const unsigned char zero = 0;
  const PrefixHash one = SipHash128(key, &zero, 1);
  EXPECT_EQ(one.low, 0x44af996bd8c187dau);
  EXPECT_EQ(one.high, 0x45fc229b11597634u);
}

TEST(PrefixHashTest, DependsOnParentTokensSaltAndKey) {
  const PrefixHashKey key = {1, 2};
  const PrefixHash root = HashSalt(key, "");
  const std::vector<TokenId> tokens = {1, 2, 3};
  const PrefixHash hash = HashBlock(key, root, tokens);
  EXPECT_EQ(hash, HashBlock(key, root, tokens));
  EXPECT_NE(hash, HashBlock(key, HashSalt(key, "tenant"), tokens));
  EXPECT_NE(hash, HashBlock(key, root, std::vector<TokenId>{1, 2, 4}));
  EXPECT_NE(hash, HashBlock(key, root, std::vector<TokenId>{1, 2, 3, 0}));
  EXPECT_NE(hash, HashBlock({1, 3}, HashSalt({1, 3}, ""), tokens));
}

class PrefixCacheTest : public testing::Test {
 protected:
  PrefixCache cache_{4, 2};
  const PrefixHash parent_{1, 1};
  const PrefixHash hash_{2, 2};
  const std::array<TokenId, 2> tokens_ = {7, 8};
};

TEST_F(PrefixCacheTest, FindsWhatWasInsertedUntilItIsEvicted) {
  EXPECT_FALSE(cache_.Find(hash_, parent_, tokens_).has_value());
  EXPECT_TRUE(cache_.Insert(3, hash_, parent_, tokens_));
  EXPECT_EQ(cache_.Find(hash_, parent_, tokens_), 3u);
  cache_.OnEvict(3);
  EXPECT_FALSE(cache_.Find(hash_, parent_, tokens_).has_value());
}

TEST_F(PrefixCacheTest, AnEqualHashIsNotEnough) {
  ASSERT_TRUE(cache_.Insert(3, hash_, parent_, tokens_));
  EXPECT_FALSE(cache_.Find(hash_, parent_, std::array<TokenId, 2>{7, 9}).has_value());
  EXPECT_FALSE(cache_.Find(hash_, PrefixHash{1, 2}, tokens_).has_value());
}

TEST_F(PrefixCacheTest, TheFirstBlockOfAHashStays) {
  ASSERT_TRUE(cache_.Insert(3, hash_, parent_, tokens_));
  EXPECT_FALSE(cache_.Insert(1, hash_, parent_, tokens_));
  EXPECT_EQ(cache_.Find(hash_, parent_, tokens_), 3u);
}

}  // namespace
}  // namespace quire
