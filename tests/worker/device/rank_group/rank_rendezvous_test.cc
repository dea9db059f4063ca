#include "worker/device/rank_group/rank_rendezvous.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace quire {
namespace {

void OnThreads(uint32_t count, const std::function<void(uint32_t)>& fn) {
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < count; ++i) threads.emplace_back(fn, i);
  for (std::thread& thread : threads) thread.join();
}

TEST(RankRendezvousTest, NobodyPassesBeforeTheLast) {
  constexpr uint32_t kRanks = 4;
  constexpr int kRounds = 500;
  RankRendezvous rendezvous(kRanks);
  // Plain integers: what a rank wrote before is visible after.
  std::vector<int> round_of(kRanks, 0);
  OnThreads(kRanks, [&](uint32_t rank) {
    for (int round = 1; round <= kRounds; ++round) {
      round_of[rank] = round;
      ASSERT_TRUE(rendezvous.Arrive().ok());
      for (int other : round_of) EXPECT_EQ(other, round);
      ASSERT_TRUE(rendezvous.Arrive().ok());
    }
  });
}

TEST(RankRendezvousTest, LeastIsThatOfTheRound) {
  constexpr uint32_t kRanks = 3;
  RankRendezvous rendezvous(kRanks);
  OnThreads(kRanks, [&](uint32_t rank) {
    for (uint64_t round = 0; round < 300; ++round) {
      // The least comes from a rank that changes, and grows as well as shrinks.
      const uint64_t value = 1000 + (round % 7) * 10 + (rank + round) % kRanks;
      const auto least = rendezvous.Least(value);
      ASSERT_TRUE(least.ok());
      EXPECT_EQ(*least, 1000 + (round % 7) * 10);
    }
  });
}

TEST(RankRendezvousTest, AbortEndsWaitsAndStays) {
  RankRendezvous rendezvous(3);
  OnThreads(3, [&](uint32_t rank) {
    if (rank == 2) {
      rendezvous.Abort(absl::InternalError("rank 2 is lost"));
      rendezvous.Abort(absl::InternalError("a later reason"));
      return;
    }
    EXPECT_EQ(rendezvous.Arrive(), absl::InternalError("rank 2 is lost"));
  });
  EXPECT_EQ(rendezvous.status(), absl::InternalError("rank 2 is lost"));
  EXPECT_EQ(rendezvous.Least(1).status(), absl::InternalError("rank 2 is lost"));
}

}  // namespace
}  // namespace quire
