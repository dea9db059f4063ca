#include "scheduler/placement/placement_policy.h"

#include <vector>

#include <gtest/gtest.h>

namespace quire {
namespace {

using Outcome = PlacementDecision::Outcome;

PlacementCandidate Candidate(WorkerNumber number, uint32_t running, uint32_t waiting = 0) {
  PlacementCandidate candidate;
  candidate.worker.worker = number;
  candidate.worker.running = running;
  candidate.worker.waiting = waiting;
  candidate.worker.blocks_free = 100;
  candidate.worker.blocks_total = 100;
  candidate.worker.block_size = 16;
  candidate.worker.max_num_seqs = 8;
  candidate.worker.max_queue = 4;
  return candidate;
}

TEST(PlacementPolicyTest, TakesTheLeastLoaded) {
  const std::vector<PlacementCandidate> candidates = {Candidate(1, 3), Candidate(2, 1, 1),
                                                      Candidate(3, 1)};
  const PlacementDecision decision = PlaceRequest({10, 10, 1}, candidates);
  EXPECT_EQ(decision.outcome, Outcome::kPlaced);
  EXPECT_EQ(decision.worker, 3u);
}

TEST(PlacementPolicyTest, CountsWhatTheWorkerHasNotReportedYet) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 0), Candidate(2, 1)};
  candidates[0].worker.unreported = 5;
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).worker, 2u);
}

TEST(PlacementPolicyTest, LimitsOfAnySizeLeaveRoom) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 0)};
  candidates[0].worker.max_num_seqs = 1;
  candidates[0].worker.max_queue = ~0u;  // as uint32_t their sum is 0
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).outcome, Outcome::kPlaced);
  candidates[0].worker.max_queue = 4;
  candidates[0].worker.running = ~0u;  // and so is this one's with `waiting`
  candidates[0].worker.waiting = 1;
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).outcome, Outcome::kFull);
}

TEST(PlacementPolicyTest, FollowsALongCachedPrefix) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 2), Candidate(2, 1)};
  candidates[0].matched_tokens = 3 * kTokensPerSequence;
  EXPECT_EQ(PlaceRequest({1000, 10, 1}, candidates).worker, 1u);
  candidates[0].matched_tokens = kTokensPerSequence / 2;  // not worth a sequence
  EXPECT_EQ(PlaceRequest({1000, 10, 1}, candidates).worker, 2u);
}

TEST(PlacementPolicyTest, FreeBlocksDecideBetweenEquals) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 1), Candidate(2, 1)};
  candidates[0].worker.blocks_free = 10;
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).worker, 2u);
  candidates[0].worker.blocks_cached = 90;
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).worker, 1u);
}

TEST(PlacementPolicyTest, IsFullWhenNoQueueHasRoomForEveryChoice) {
  const std::vector<PlacementCandidate> candidates = {Candidate(1, 8, 4), Candidate(2, 8, 3)};
  EXPECT_EQ(PlaceRequest({10, 10, 1}, candidates).worker, 2u);
  EXPECT_EQ(PlaceRequest({10, 10, 2}, candidates).outcome, Outcome::kFull);
}

TEST(PlacementPolicyTest, SaysWhatCouldNeverFit) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 0), Candidate(2, 0)};
  candidates[1].worker.blocks_total = 50;
  const PlacementDecision decision = PlaceRequest({1500, 101, 1}, candidates);
  EXPECT_EQ(decision.outcome, Outcome::kNeverFits);
  EXPECT_EQ(decision.blocks_needed, 101u);
  EXPECT_EQ(decision.blocks_had, 100u);
  EXPECT_EQ(PlaceRequest({1500, 100, 1}, candidates).outcome, Outcome::kPlaced);
}

TEST(PlacementPolicyTest, WorkersThatDoNotPageAlwaysFit) {
  std::vector<PlacementCandidate> candidates = {Candidate(1, 0)};
  candidates[0].worker.block_size = 0;
  candidates[0].worker.blocks_total = 0;
  EXPECT_EQ(PlaceRequest({1'000'000, 1, 1}, candidates).outcome, Outcome::kPlaced);
}

}  // namespace
}  // namespace quire
