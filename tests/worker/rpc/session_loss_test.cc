// Connections that are lost, and what becomes of the requests they carried.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/rpc/session_fixture.h"

namespace quire {
namespace {

using testing::HasSubstr;
using worker::v1::Submit;

constexpr int kFailedPrecondition = static_cast<int>(absl::StatusCode::kFailedPrecondition);
constexpr int kNotFound = static_cast<int>(absl::StatusCode::kNotFound);

class SessionLossTest : public SessionTest {
 protected:
  TestCoordinator coordinator_{&table_, "coordinator"};
};

TEST_F(SessionLossTest, AReclaimGoesOnWithTheNextToken) {
  constexpr uint32_t kTokens = 12;
  const std::vector<TokenId> whole = ExpectedTokens({7, 8, 9}, kTokens);
  // Cut after `received` tokens; `orphaned` more come while no one listens, up to all of them.
  uint64_t key = 0;
  for (uint32_t received = 1; received < kTokens; received += 3) {
    for (uint32_t orphaned = 0; received + orphaned <= kTokens; orphaned += 4) {
      SCOPED_TRACE(testing::Message() << received << " received, " << orphaned << " orphaned");
      ++key;
      coordinator_.Connect();
      coordinator_.Submit(MakeSubmit(key, {7, 8, 9}, kTokens));
      gate_.Allow(received);
      coordinator_.WaitForTokens(key, received);
      coordinator_.Cut();
      gate_.Allow(orphaned);
      gate_.WaitUntilUsed();
      coordinator_.Connect();
      coordinator_.Reclaim(key);
      gate_.Allow(kTokens - received - orphaned);
      EXPECT_EQ(coordinator_.WaitForFinish(key).reason(), v1::Finished::LENGTH);
      EXPECT_EQ(coordinator_.tokens(key), whole);
      coordinator_.Cut();
    }
  }
}

TEST_F(SessionLossTest, AReclaimLeavesOtherRequestsAlone) {
  coordinator_.Connect();
  TestCoordinator other(&table_, "other");
  other.Connect();
  other.Submit(MakeSubmit(5, {5}, 40));
  for (uint64_t key = 1; key <= 3; ++key) coordinator_.Submit(MakeSubmit(key, {TokenId(key)}, 40));
  other.Sync();
  coordinator_.Sync();
  gate_.Allow(10);
  coordinator_.WaitForTokens(3, 5);
  coordinator_.Cut();
  coordinator_.Connect();
  coordinator_.Reclaim(2);
  gate_.Allow(10);
  coordinator_.Reclaim(1);
  gate_.Open();
  coordinator_.WaitForFinish(1);
  coordinator_.WaitForFinish(2);
  other.WaitForFinish(5);
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({1}, 40));
  EXPECT_EQ(coordinator_.tokens(2), ExpectedTokens({2}, 40));
  EXPECT_EQ(other.tokens(5), ExpectedTokens({5}, 40));
  // The third was not reclaimed: it waits for its coordinator, silently.
  EXPECT_FALSE(coordinator_.finished(3));
  EXPECT_EQ(WaitForRecords(3).size(), 3u);
}

TEST_F(SessionLossTest, SubmittingAnOrphanAgainReclaimsItFromTheStart) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {3}, 10);
  const std::vector<TokenId> whole = ExpectedTokens({3}, 10);
  submit.add_emitted()->mutable_emitted_token_ids()->Add(whole.begin(), whole.begin() + 2);
  coordinator_.Submit(submit);
  gate_.Allow(4);
  coordinator_.WaitForTokens(1, 5);
  coordinator_.Cut();
  coordinator_.Connect();
  coordinator_.Submit(submit);  // it does not know that it arrived
  gate_.Open();
  EXPECT_EQ(coordinator_.WaitForFinish(1).usage().output_tokens(), 10u);
  EXPECT_EQ(coordinator_.tokens(1), whole);
  EXPECT_EQ(WaitForRecords(1).size(), 1u);
}

TEST_F(SessionLossTest, RefusesAReclaimThatDoesNotFit) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {1}, 50);
  submit.add_emitted()->add_emitted_token_ids(11);
  submit.mutable_emitted(0)->add_emitted_token_ids(12);
  coordinator_.Submit(submit);
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 4);
  coordinator_.Cut();
  coordinator_.Connect();
  worker::v1::SessionRequest request;
  request.mutable_reclaim()->set_key(1);
  request.mutable_reclaim()->add_next_index(1);  // the worker has tokens from 2 on
  coordinator_.Send(request);
  const worker::v1::Rejected rejected = coordinator_.WaitForRejection(1);
  EXPECT_EQ(rejected.status_code(), kFailedPrecondition);
  EXPECT_THAT(rejected.status_message(),
              HasSubstr("next_index of choice 0 is 1; tokens from 2 to"));
  // It is gone: the coordinator submits it again.
  EXPECT_EQ(WaitForRecords(1)[0].status.code(), absl::StatusCode::kFailedPrecondition);
  gate_.Open();
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

TEST_F(SessionLossTest, LogProbabilitiesAreNotReplayed) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {1}, 50);
  submit.mutable_parameters()->set_logprobs(2);
  coordinator_.Submit(submit);
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 3);
  coordinator_.Cut();
  coordinator_.Connect();
  coordinator_.Reclaim(1);
  EXPECT_EQ(coordinator_.WaitForRejection(1).status_code(), kFailedPrecondition);

  // The same attempt, from its emitted tokens: what the engine still says of the first is void.
  const std::vector<TokenId> whole = ExpectedTokens({1}, 50);
  submit.add_emitted()->mutable_emitted_token_ids()->Add(whole.begin(), whole.begin() + 3);
  coordinator_.Submit(submit);
  gate_.Open();
  EXPECT_EQ(coordinator_.WaitForFinish(1).reason(), v1::Finished::LENGTH);
  EXPECT_EQ(coordinator_.tokens(1), whole);
}

TEST_F(SessionLossTest, OrphansEndAfterTheGracePeriod) {
  TestCoordinator watcher(&table_, "watcher");
  watcher.Connect();
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1, 2, 3, 4, 5}, 400));
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 3);
  coordinator_.Cut();
  now_ += kGrace - 1;
  table_.Tick();
  EXPECT_FALSE(table_.WaitUntilIdle(0));
  now_ += 1;
  table_.Tick();
  EXPECT_TRUE(table_.WaitUntilIdle(0));
  EXPECT_EQ(WaitForRecords(1)[0].status.code(), absl::StatusCode::kCancelled);
  gate_.Open();
  table_.Tick();
  ExpectAllBlocksBack(watcher.WaitForIdle());

  coordinator_.Connect();  // its session was forgotten, and begins anew
  coordinator_.Reclaim(1);
  EXPECT_EQ(coordinator_.WaitForRejection(1).status_code(), kNotFound);
  coordinator_.Submit(MakeSubmit(2, {1}, 3));
  coordinator_.WaitForFinish(2);
}

TEST_F(SessionLossTest, ANewConnectionDoesNotSaveWhatItDoesNotReclaim) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 400));
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 3);
  coordinator_.Connect();
  now_ += kGrace;
  table_.Tick();
  EXPECT_TRUE(table_.WaitUntilIdle(0));
}

TEST_F(SessionLossTest, CancelOfAnOrphanEndsIt) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 400));
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 3);
  coordinator_.Cut();
  coordinator_.Connect();
  coordinator_.Cancel(1);
  EXPECT_EQ(WaitForRecords(1)[0].status.code(), absl::StatusCode::kCancelled);
  gate_.Open();
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

TEST_F(SessionLossTest, AnotherCoordinatorReplacesAnOrphan) {
  const std::vector<TokenId> whole = ExpectedTokens({6}, 30);
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {6}, 30);
  submit.set_request_id("moved");
  coordinator_.Submit(submit);
  gate_.Allow(4);
  coordinator_.WaitForTokens(1, 4);
  coordinator_.Cut();

  TestCoordinator other(&table_, "other");
  other.Connect();
  submit.set_key(99);
  submit.add_emitted()->mutable_emitted_token_ids()->Add(whole.begin(), whole.begin() + 4);
  other.Submit(submit);
  const SessionTable::RequestRecord record = WaitForRecords(1)[0];
  EXPECT_EQ(record.coordinator_id, "coordinator");
  EXPECT_EQ(record.status.code(), absl::StatusCode::kAborted);
  gate_.Open();
  other.WaitForFinish(99);
  EXPECT_EQ(other.tokens(99), whole);
  ExpectAllBlocksBack(other.WaitForIdle());
}

TEST_F(SessionLossTest, TwoLivingCoordinatorsKeepOneRequestIdEach) {
  TestCoordinator other(&table_, "other");
  other.Connect();
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 30));
  gate_.Allow(1);
  coordinator_.WaitForTokens(1, 1);
  other.Submit(MakeSubmit(1, {1}, 30));
  other.Sync();
  gate_.Open();
  coordinator_.WaitForFinish(1);
  other.WaitForFinish(1);
  EXPECT_EQ(coordinator_.tokens(1), other.tokens(1));
}

TEST_F(SessionLossTest, AFullOutboxLosesTheConnectionAndNoToken) {
  TestCoordinator other(&table_, "other");
  other.Connect();
  coordinator_.Connect(16);
  coordinator_.Submit(MakeSubmit(1, {1}, 200));
  other.Submit(MakeSubmit(2, {2}, 200));
  other.Sync();
  coordinator_.Sync();
  gate_.Allow(2);
  coordinator_.WaitForTokens(1, 1);
  coordinator_.SetReads(false);
  gate_.Open();
  EXPECT_EQ(coordinator_.WaitForLoss().code(), absl::StatusCode::kResourceExhausted);
  other.WaitForFinish(2);  // who reads is not held up
  EXPECT_EQ(other.tokens(2), ExpectedTokens({2}, 200));

  coordinator_.Connect();
  coordinator_.Reclaim(1);
  EXPECT_EQ(coordinator_.WaitForFinish(1).usage().output_tokens(), 200u);
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({1}, 200));
}

}  // namespace
}  // namespace quire
