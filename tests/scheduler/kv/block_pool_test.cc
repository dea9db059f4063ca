#include "scheduler/kv/block_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

class RecordingListener : public EvictionListener {
 public:
  void OnEvict(BlockId block) override { evicted.push_back(block); }
  std::vector<BlockId> evicted;
};

TEST(BlockPoolTest, GivesEveryBlockOnceAndThenNone) {
  BlockPool pool(3, nullptr);
  std::vector<BlockLease> leases;
  std::vector<BlockId> blocks;
  while (auto lease = pool.Allocate()) {
    blocks.push_back(lease->block());
    leases.push_back(std::move(*lease));
  }
  EXPECT_THAT(blocks, testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_EQ(pool.num_leased(), 3u);
  leases.clear();
  EXPECT_EQ(pool.num_free(), 3u);
}

TEST(BlockPoolTest, SharedBlockReturnsWithItsLastLease) {
  BlockPool pool(1, nullptr);
  auto first = pool.Allocate();
  {
    BlockLease second = first->Share();
    first.reset();
    EXPECT_EQ(pool.num_leased(), 1u);
    EXPECT_FALSE(pool.Allocate().has_value());
  }
  EXPECT_EQ(pool.num_free(), 1u);
}

TEST(BlockPoolTest, MovedLeaseReleasesOnce) {
  BlockPool pool(2, nullptr);
  auto a = pool.Allocate();
  auto b = pool.Allocate();
  *a = std::move(*b);  // gives a's block back
  EXPECT_EQ(pool.num_free(), 1u);
  b.reset();
  EXPECT_EQ(pool.num_free(), 1u);
  a.reset();
  EXPECT_EQ(pool.num_free(), 2u);
}

TEST(BlockPoolTest, EvictsTheLeastRecentlyUsed) {
  RecordingListener listener;
  BlockPool pool(3, &listener);
  std::vector<BlockLease> leases;
  for (int i = 0; i < 3; ++i) {
    leases.push_back(*pool.Allocate());
    pool.Keep(leases.back().block());
  }
  const BlockId oldest = leases[1].block();
  const BlockId middle = leases[0].block();
  const BlockId newest = leases[2].block();
  { BlockLease gone = std::move(leases[1]); }
  { BlockLease gone = std::move(leases[0]); }
  { BlockLease gone = std::move(leases[2]); }
  EXPECT_EQ(pool.num_cached(), 3u);
  { BlockLease used_again = pool.Lease(oldest); }
  auto first = pool.Allocate();
  auto second = pool.Allocate();
  auto third = pool.Allocate();
  EXPECT_THAT(listener.evicted, testing::ElementsAre(middle, newest, oldest));
}

// The same pool, written with nothing but standard containers.
class NaivePool {
 public:
  explicit NaivePool(uint32_t num_blocks) {
    for (BlockId block = 0; block < num_blocks; ++block) state_[block] = {};
  }
  struct State {
    int leases = 0;
    bool keep = false;
  };

  bool CanAllocate() const {
    return std::any_of(state_.begin(), state_.end(),
                       [](const auto& s) { return s.second.leases == 0; });
  }
  bool IsFree(BlockId block) const {
    return state_.at(block).leases == 0 && !state_.at(block).keep;
  }
  bool AnyFree() const {
    return std::any_of(state_.begin(), state_.end(),
                       [this](const auto& s) { return IsFree(s.first); });
  }
  BlockId LeastRecentlyUsed() const { return cached_.front(); }
  void Allocated(BlockId block) {
    std::erase(cached_, block);
    state_[block] = {1, false};
  }
  void Lease(BlockId block) {
    std::erase(cached_, block);
    ++state_[block].leases;
  }
  void Keep(BlockId block) { state_[block].keep = true; }
  void Release(BlockId block) {
    if (--state_[block].leases == 0 && state_[block].keep) cached_.push_back(block);
  }
  const State& state(BlockId block) const { return state_.at(block); }
  const std::vector<BlockId>& cached() const { return cached_; }
  size_t num_leased() const {
    return std::count_if(state_.begin(), state_.end(),
                         [](const auto& s) { return s.second.leases > 0; });
  }

 private:
  std::map<BlockId, State> state_;
  std::vector<BlockId> cached_;  // least recently used first
};

// QUIRE_POOL_OPERATIONS overrides the number of operations: 10^7 in a full run.
int NumOperations() {
  const char* value = std::getenv("QUIRE_POOL_OPERATIONS");
  return value != nullptr ? std::atoi(value) : 1'000'000;
}

TEST(BlockPoolPropertyTest, AgreesWithANaivePoolOverRandomOperations) {
  std::mt19937 random(7);
  const int operations = NumOperations();
  const int rounds = 10;
  for (int round = 0; round < rounds; ++round) {
    const uint32_t num_blocks = 1 + random() % 24;
    RecordingListener listener;
    BlockPool pool(num_blocks, &listener);
    NaivePool naive(num_blocks);
    std::vector<BlockLease> leases;
    for (int i = 0; i < operations / rounds; ++i) {
      switch (random() % 5) {
        case 0:
        case 1: {
          const bool had_free = naive.AnyFree();
          const bool possible = naive.CanAllocate();
          listener.evicted.clear();
          auto lease = pool.Allocate();
          ASSERT_EQ(lease.has_value(), possible);
          if (!possible) break;
          if (had_free) {
            ASSERT_TRUE(naive.IsFree(lease->block()));
            ASSERT_TRUE(listener.evicted.empty());
          } else {
            ASSERT_EQ(lease->block(), naive.LeastRecentlyUsed());
            ASSERT_THAT(listener.evicted, testing::ElementsAre(lease->block()));
          }
          naive.Allocated(lease->block());
          leases.push_back(std::move(*lease));
          break;
        }
        case 2: {
          if (leases.empty()) break;
          const size_t which = random() % leases.size();
          naive.Release(leases[which].block());
          std::swap(leases[which], leases.back());
          leases.pop_back();
          break;
        }
        case 3: {
          if (leases.empty()) break;
          const BlockId block = leases[random() % leases.size()].block();
          naive.Keep(block);
          pool.Keep(block);
          break;
        }
        case 4: {
          const BlockId block = random() % num_blocks;
          if (naive.IsFree(block)) break;
          naive.Lease(block);
          leases.push_back(pool.Lease(block));
          break;
        }
      }
      ASSERT_EQ(pool.num_leased(), naive.num_leased());
      ASSERT_EQ(pool.num_cached(), naive.cached().size());
      ASSERT_EQ(pool.num_free() + pool.num_cached() + pool.num_leased(), num_blocks);
    }
    leases.clear();
    EXPECT_EQ(pool.num_leased(), 0u);
  }
  std::printf("summary: block pool: %d random operations agree with a naive pool\n", operations);
}

}  // namespace
}  // namespace quire
