// A worker that is asked for more than it takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/rpc/session_fixture.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int kResourceExhausted = static_cast<int>(absl::StatusCode::kResourceExhausted);

worker::v1::Limits ElevenPlaces() {
  worker::v1::Limits limits;
  limits.set_max_num_seqs(1);
  limits.set_max_queue(10);  // of which two are kept
  return limits;
}

class SessionOverloadTest : public SessionTest {
 protected:
  SessionOverloadTest() : SessionTest(ElevenPlaces()) {}

  worker::v1::Submit Of(const std::string& tenant, uint64_t key, uint32_t n = 1) {
    worker::v1::Submit submit = MakeSubmit(key, {TokenId(key), 1}, 3);
    submit.set_tenant(tenant);
    submit.mutable_parameters()->set_n(n);
    return submit;
  }

  TestCoordinator coordinator_{&table_, "coordinator"};
};

TEST_F(SessionOverloadTest, RefusesWhileAStepTakesLong) {
  coordinator_.Connect();
  for (uint64_t key = 0; key < 8; ++key) coordinator_.Submit(Of("greedy", key));
  // Nothing comes of the device, and so none of the engine's loop.
  coordinator_.Submit(Of("greedy", 8, /*n=*/2));
  EXPECT_EQ(coordinator_.WaitForRejection(8).status_code(), kResourceExhausted);
  coordinator_.Submit(Of("greedy", 9));
  coordinator_.Submit(Of("greedy", 10));
  const worker::v1::Rejected rejected = coordinator_.WaitForRejection(10);
  EXPECT_EQ(rejected.status_code(), kResourceExhausted);
  EXPECT_EQ(rejected.retry_after_ms(), RetrySchedule::kUnknownMs);
  // Another tenant finds room.
  coordinator_.Submit(Of("modest", 11, /*n=*/2));
  coordinator_.Submit(Of("modest", 12));
  EXPECT_EQ(coordinator_.WaitForRejection(12).status_code(), kResourceExhausted);
  table_.Tick();
  EXPECT_THAT(table_.load().tenants_over_share(), ElementsAre("greedy", "modest"));

  gate_.Open();
  for (const uint64_t key : {0, 1, 2, 3, 4, 5, 6, 7, 9}) coordinator_.WaitForFinish(key);
  coordinator_.WaitForFinish(11, 1);
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
  table_.Tick();
  EXPECT_THAT(table_.load().tenants_over_share(), IsEmpty());
}

TEST_F(SessionOverloadTest, PlacesComeBackHoweverARequestEnds) {
  coordinator_.Connect();
  for (int round = 0; round < 3; ++round) {
    const uint64_t first = 100 * round;
    for (uint64_t key = first; key < first + 9; ++key) coordinator_.Submit(Of("t", key));
    coordinator_.Submit(Of("t", first + 9));
    coordinator_.WaitForRejection(first + 9);
    coordinator_.Cancel(first);
    worker::v1::Submit again = Of("t", first + 1);
    again.set_attempt(1);
    coordinator_.Submit(again);
    coordinator_.Cut();
    now_ += kGrace;
    table_.Tick();  // drops the orphans
    coordinator_.Connect();
  }
  gate_.Open();
  for (uint64_t key = 1000; key < 1009; ++key) coordinator_.Submit(Of("t", key));
  for (uint64_t key = 1000; key < 1009; ++key) coordinator_.WaitForFinish(key);
}

TEST_F(SessionOverloadTest, TellsTheRateAtWhichSequencesEnd) {
  gate_.Open();
  coordinator_.Connect();
  coordinator_.Submit(Of("t", 1));
  coordinator_.WaitForFinish(1);
  now_ += 500'000;
  coordinator_.Submit(Of("t", 2, /*n=*/2));
  coordinator_.WaitForFinish(2, 0);
  coordinator_.WaitForFinish(2, 1);
  table_.Tick();
  EXPECT_DOUBLE_EQ(table_.load().ended_per_s(), 4);
}

}  // namespace
}  // namespace quire
