#include "worker/rpc/session_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/clock.h"
#include "tests/fakes/recording_sink.h"
#include "tests/worker/rpc/session_fixture.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;
using worker::v1::Submit;

constexpr int kCancelled = static_cast<int>(absl::StatusCode::kCancelled);
constexpr int kInvalidArgument = static_cast<int>(absl::StatusCode::kInvalidArgument);
constexpr int kResourceExhausted = static_cast<int>(absl::StatusCode::kResourceExhausted);
constexpr int kUnavailable = static_cast<int>(absl::StatusCode::kUnavailable);

class SessionTableTest : public SessionTest {
 protected:
  TestCoordinator coordinator_{&table_, "coordinator"};
};

TEST_F(SessionTableTest, StreamsARequestToItsEnd) {
  gate_.Open();
  const worker::v1::Opened opened = coordinator_.Connect();
  EXPECT_EQ(opened.incarnation(), "first life");
  EXPECT_EQ(opened.worker().name(), "worker under test");

  coordinator_.Submit(MakeSubmit(1, {1, 2, 3}, 20));
  const worker::v1::Finish finish = coordinator_.WaitForFinish(1);
  EXPECT_EQ(finish.reason(), v1::Finished::LENGTH);
  EXPECT_EQ(finish.usage().prompt_tokens(), 3u);
  EXPECT_EQ(finish.usage().output_tokens(), 20u);
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({1, 2, 3}, 20));
  ExpectAllBlocksBack(coordinator_.WaitForIdle());

  const SessionTable::RequestRecord record = WaitForRecords(1)[0];
  EXPECT_EQ(record.request_id, "request 1");
  EXPECT_EQ(record.coordinator_id, "coordinator");
  EXPECT_TRUE(record.status.ok());
  EXPECT_EQ(record.prompt_tokens, 3u);
  EXPECT_EQ(record.output_tokens, 20u);
}

TEST_F(SessionTableTest, SortsStepsBySession) {
  gate_.Open();
  TestCoordinator other(&table_, "other");
  coordinator_.Connect();
  other.Connect();
  for (uint64_t key = 0; key < 8; ++key) {  // the same keys mean different requests to each
    coordinator_.Submit(MakeSubmit(key, {TokenId(key), 1}, 30));
    Submit submit = MakeSubmit(key, {TokenId(key), 2}, 30);
    submit.mutable_parameters()->set_n(2);
    other.Submit(submit);
  }
  for (uint64_t key = 0; key < 8; ++key) {
    coordinator_.WaitForEnd(key);
    other.WaitForEnd(key);
    EXPECT_EQ(coordinator_.tokens(key), ExpectedTokens({TokenId(key), 1}, 30));
    EXPECT_EQ(other.tokens(key, 0), ExpectedTokens({TokenId(key), 2}, 30));
    EXPECT_EQ(other.tokens(key, 1), other.tokens(key, 0));
  }
}

TEST_F(SessionTableTest, LogProbabilitiesOfALongPromptAreSplitOverMessages) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 20));
  coordinator_.Sync();
  EngineOutput output;
  output.logprobs.resize(1);
  output.logprobs[0].key = {0, 1};
  output.logprobs[0].prompt.resize(10'000);
  table_.OnOutput(output);
  gate_.Open();
  coordinator_.WaitForFinish(1);
  EXPECT_EQ(coordinator_.prompt_logprobs(1), std::vector<int>({4096, 4096, 1808}));
}

TEST_F(SessionTableTest, CancelCountsTokensUpToTheStopIndex) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 100));
  gate_.Allow(8);
  coordinator_.WaitForTokens(1, 8);
  coordinator_.CancelChoice(1, 0, 4);
  coordinator_.Sync();
  gate_.Open();
  const worker::v1::Finish finish = coordinator_.WaitForFinish(1);
  EXPECT_EQ(finish.reason(), v1::Finished::ABORTED);
  EXPECT_EQ(finish.status_code(), kCancelled);
  EXPECT_EQ(finish.usage().output_tokens(), 4u);
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

TEST_F(SessionTableTest, CancelEndsEveryChoice) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {1, 2, 3, 4, 5}, 100);
  submit.mutable_parameters()->set_n(4);
  coordinator_.Submit(submit);
  gate_.Allow(6);
  coordinator_.WaitForTokens(1, 2, 3);
  coordinator_.CancelChoice(1, 2, 1);  // one alone, then the rest
  coordinator_.Cancel(1);
  coordinator_.Cancel(1);
  coordinator_.Cancel(77);  // unknown
  coordinator_.Sync();
  gate_.Open();
  for (uint32_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ(coordinator_.WaitForFinish(1, choice).status_code(), kCancelled);
  }
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

TEST_F(SessionTableTest, TheSameSubmitTwiceIsOneRequest) {
  coordinator_.Connect();
  const Submit submit = MakeSubmit(1, {4, 5}, 12);
  coordinator_.Submit(submit);
  gate_.Allow(3);
  coordinator_.WaitForTokens(1, 3);
  SessionRequest again;
  *again.mutable_submit() = submit;
  coordinator_.Send(again);
  coordinator_.Sync();
  gate_.Open();
  coordinator_.WaitForFinish(1);
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({4, 5}, 12));
  EXPECT_EQ(WaitForRecords(1).size(), 1u);
}

TEST_F(SessionTableTest, ANewerAttemptReplacesAnOlderOne) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {4, 5}, 12);
  coordinator_.Submit(submit);
  gate_.Allow(5);
  coordinator_.WaitForTokens(1, 5);

  const std::vector<TokenId> whole = ExpectedTokens({4, 5}, 12);
  submit.set_attempt(1);
  submit.add_emitted()->mutable_emitted_token_ids()->Add(whole.begin(), whole.begin() + 3);
  coordinator_.Submit(submit);  // the coordinator trusts its first three tokens alone
  Submit late = MakeSubmit(1, {9, 9}, 12);
  SessionRequest request;
  *request.mutable_submit() = late;  // attempt 0, behind the newer one
  coordinator_.Send(request);
  coordinator_.Sync();
  gate_.Open();
  EXPECT_EQ(coordinator_.WaitForFinish(1).usage().output_tokens(), 12u);
  EXPECT_EQ(coordinator_.tokens(1), whole);
  EXPECT_EQ(WaitForRecords(2)[0].status.code(), absl::StatusCode::kAborted);
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

TEST_F(SessionTableTest, SaysWhyItRefuses) {
  gate_.Open();
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {kTestVocabulary}, 5));
  EXPECT_EQ(coordinator_.WaitForRejection(1).status_code(), kInvalidArgument);
  EXPECT_THAT(coordinator_.WaitForRejection(1).status_message(), HasSubstr("prompt[0]"));

  Submit bad = MakeSubmit(2, {1}, 5);
  bad.mutable_parameters()->set_temperature(3);
  coordinator_.Submit(bad);
  EXPECT_THAT(coordinator_.WaitForRejection(2).status_message(),
              HasSubstr("parameters.temperature"));

  Submit nothing_to_run = MakeSubmit(3, {1}, 5);
  nothing_to_run.add_choice_finished(true);
  coordinator_.Submit(nothing_to_run);
  EXPECT_THAT(coordinator_.WaitForRejection(3).status_message(), HasSubstr("choice_finished"));

  // Ids that the sampler would write to.
  Submit bias = MakeSubmit(4, {1}, 5);
  bias.mutable_parameters()->add_logit_bias_token_ids(kTestVocabulary + 7);
  bias.mutable_parameters()->add_logit_bias_values(1);
  coordinator_.Submit(bias);
  EXPECT_THAT(coordinator_.WaitForRejection(4).status_message(), HasSubstr("logit_bias[0]"));
  Submit eos = MakeSubmit(5, {1}, 5);
  eos.mutable_parameters()->add_eos_token_ids(kTestVocabulary);
  coordinator_.Submit(eos);
  EXPECT_THAT(coordinator_.WaitForRejection(5).status_message(), HasSubstr("eos_token_ids[0]"));
  EXPECT_TRUE(table_.WaitUntilIdle(0));
}

TEST_F(SessionTableTest, AFullMailboxAsksToComeBack) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(0, {1}, 50));
  gate_.Allow(1);
  coordinator_.WaitForTokens(0, 1);
  // The device holds the loop within its second step: the mailbox of 64 is emptied once at the
  // most.
  for (uint64_t key = 1; key <= 200; ++key) coordinator_.Submit(MakeSubmit(key, {1}, 1));
  const worker::v1::Rejected rejected = coordinator_.WaitForRejection(200);
  EXPECT_EQ(rejected.status_code(), kResourceExhausted);
  EXPECT_GT(rejected.retry_after_ms(), 0u);
  gate_.Open();
  coordinator_.WaitForFinish(1);
}

TEST_F(SessionTableTest, TellsItsLoadThoughAStepTakesLong) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 100));
  gate_.Allow(1);
  coordinator_.WaitForTokens(1, 1);  // the second step does not end
  const uint64_t before = coordinator_.num_loads();
  for (int i = 0; i < 10; ++i) table_.Tick();
  coordinator_.WaitForLoads(before + 10);
}

TEST_F(SessionTableTest, MeasuresTheTimeFromTokenToToken) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 100));
  for (size_t token = 1; token <= 3; ++token) {
    gate_.Allow(1);
    coordinator_.WaitForTokens(1, token);
    now_ += 7'000;
  }
  MutexLock lock(mutex_);
  EXPECT_THAT(token_gaps_, ElementsAre(Pair(7'000, 1), Pair(7'000, 1)));
}

TEST_F(SessionTableTest, AnswersPings) {
  gate_.Open();
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 7));
  coordinator_.WaitForFinish(1);
  SessionRequest ping;
  ping.mutable_ping()->set_nonce(42);
  coordinator_.Send(ping);
  const worker::v1::Pong pong = coordinator_.WaitForPong();
  EXPECT_EQ(pong.nonce(), 42u);
  EXPECT_GE(pong.last_step(), 7u);
}

TEST_F(SessionTableTest, DrainsByFinishingWhatRuns) {
  coordinator_.Connect();
  const Submit running = MakeSubmit(1, {1}, 10);
  coordinator_.Submit(running);
  gate_.Allow(2);
  coordinator_.WaitForTokens(1, 2);
  table_.StartDraining();
  SessionRequest again;
  *again.mutable_submit() = running;  // already here: no new request
  coordinator_.Send(again);
  coordinator_.Submit(MakeSubmit(2, {1}, 10));
  EXPECT_EQ(coordinator_.WaitForRejection(2).status_code(), kUnavailable);
  EXPECT_FALSE(table_.WaitUntilIdle(0));
  EXPECT_TRUE(table_.load().draining());
  gate_.Open();
  EXPECT_EQ(coordinator_.WaitForFinish(1).reason(), v1::Finished::LENGTH);
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({1}, 10));
  WaitForRecords(1);
  EXPECT_TRUE(table_.WaitUntilIdle(0));
}

TEST_F(SessionTableTest, EndsOnceWhatWasGeneratedIsRead) {
  coordinator_.Connect();
  coordinator_.Submit(MakeSubmit(1, {1}, 10));
  gate_.Allow(2);
  coordinator_.WaitForTokens(1, 2);
  coordinator_.SetReads(false);
  gate_.Open();
  WaitForRecords(1);
  table_.CloseConnections();
  EXPECT_FALSE(table_.WaitUntilClosed(0));
  coordinator_.SetReads(true);
  coordinator_.WaitForClosing();
  EXPECT_TRUE(coordinator_.finished(1));
  EXPECT_EQ(coordinator_.tokens(1), ExpectedTokens({1}, 10));
  EXPECT_FALSE(table_.WaitUntilClosed(0));
  coordinator_.Cut();
  EXPECT_TRUE(table_.WaitUntilClosed(SteadyMicros() + 60'000'000));
  // Nothing begins any more.
  const auto sink = std::make_shared<RecordingSink<SessionEvent>>();
  SessionRequest open;
  open.mutable_open()->set_coordinator_id("late");
  open.mutable_open()->set_protocol(1);
  table_.Connect(sink)->OnMessage(open);
  ASSERT_TRUE(sink->closed.has_value());
  EXPECT_EQ(sink->closed->code(), absl::StatusCode::kUnavailable);
}

TEST_F(SessionTableTest, EndsTheConnectionOfACoordinatorThatDoesNot) {
  coordinator_.LeaveTheEndToTheWorker();
  coordinator_.Connect();
  table_.CloseConnections();
  EXPECT_TRUE(table_.WaitUntilClosed(0));
  coordinator_.WaitForLoss();
}

TEST_F(SessionTableTest, EndAllTellsEveryChoice) {
  coordinator_.Connect();
  Submit submit = MakeSubmit(1, {1, 2}, 100);
  submit.mutable_parameters()->set_n(2);
  coordinator_.Submit(submit);
  gate_.Allow(4);
  coordinator_.WaitForTokens(1, 3, 1);
  table_.EndAll();
  for (uint32_t choice = 0; choice < 2; ++choice) {
    const worker::v1::Finish finish = coordinator_.WaitForFinish(1, choice);
    EXPECT_EQ(finish.reason(), v1::Finished::ABORTED);
    EXPECT_EQ(finish.status_code(), kUnavailable);
    EXPECT_EQ(finish.usage().prompt_tokens(), 2u);
    EXPECT_EQ(finish.usage().output_tokens(), coordinator_.tokens(1, choice).size());
  }
  EXPECT_TRUE(table_.WaitUntilIdle(0));
  EXPECT_EQ(WaitForRecords(1)[0].status.code(), absl::StatusCode::kUnavailable);
  gate_.Open();
  ExpectAllBlocksBack(coordinator_.WaitForIdle());
}

// Connections driven by hand: what they are told is kept, and nothing happens on other threads.
class SessionOpenTest : public SessionTest {
 protected:
  using Sink = RecordingSink<SessionEvent>;

  static SessionRequest Open(const std::string& id, uint32_t protocol) {
    SessionRequest request;
    request.mutable_open()->set_coordinator_id(id);
    request.mutable_open()->set_protocol(protocol);
    return request;
  }
  static SessionRequest Ping() {
    SessionRequest request;
    request.mutable_ping()->set_nonce(1);
    return request;
  }
};

TEST_F(SessionOpenTest, TheFirstMessageMustBeAGoodOpen) {
  for (const SessionRequest& first :
       {Ping(), Open("", 1), Open("a", 2), Open(std::string(129, 'x'), 1), SessionRequest()}) {
    auto sink = std::make_shared<Sink>();
    const auto connection = table_.Connect(sink);
    connection->OnMessage(first);
    ASSERT_TRUE(sink->closed.has_value());
    EXPECT_EQ(sink->closed->code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(sink->written.empty());
    connection->OnClosed(absl::OkStatus());
  }
}

TEST_F(SessionOpenTest, ANewerConnectionSupersedesAnOlderOne) {
  auto old_sink = std::make_shared<Sink>();
  const auto old_connection = table_.Connect(old_sink);
  old_connection->OnMessage(Open("a", 1));
  auto new_sink = std::make_shared<Sink>();
  const auto new_connection = table_.Connect(new_sink);
  new_connection->OnMessage(Open("a", 1));
  ASSERT_TRUE(old_sink->closed.has_value());
  EXPECT_EQ(old_sink->closed->code(), absl::StatusCode::kAborted);

  // Late words of the older one count for nothing.
  const size_t events = new_sink->written.size();
  SessionRequest submit;
  *submit.mutable_submit() = MakeSubmit(1, {1}, 5);
  old_connection->OnMessage(submit);
  old_connection->OnMessage(Ping());
  old_connection->OnClosed(absl::UnavailableError("gone"));
  EXPECT_TRUE(table_.WaitUntilIdle(0));
  EXPECT_EQ(new_sink->written.size(), events);

  new_connection->OnMessage(Ping());
  EXPECT_TRUE(new_sink->written.back().has_pong());
  new_connection->OnClosed(absl::OkStatus());
}

TEST_F(SessionOpenTest, UnknownMessagesAreIgnored) {
  auto sink = std::make_shared<Sink>();
  const auto connection = table_.Connect(sink);
  connection->OnMessage(Open("a", 1));
  connection->OnMessage(SessionRequest());  // an arm of a newer version
  connection->OnMessage(Open("b", 1));
  EXPECT_FALSE(sink->closed.has_value());
  connection->OnClosed(absl::OkStatus());
}

// An inbox that only counts: what reaches the engine has a bound.
class CountingInbox final : public EngineInbox {
 public:
  absl::Status PostSubmit(EngineRequest) override { return absl::OkStatus(); }
  void PostCancel(RequestKey, std::optional<uint32_t>, std::optional<uint32_t>) override {
    ++cancels;
  }
  void PostRequestLoad() override {}
  uint64_t steps() const override { return 0; }
  Micros SinceProgress() const override { return 0; }
  int cancels = 0;
};

TEST_F(SessionOpenTest, RepeatedCancelsReachTheEngineOnce) {
  CountingInbox inbox;
  SessionTable table(TableOptions());
  table.SetInbox(&inbox);
  auto sink = std::make_shared<Sink>();
  const auto connection = table.Connect(sink);
  connection->OnMessage(Open("a", 1));
  SessionRequest submit;
  *submit.mutable_submit() = MakeSubmit(1, {1}, 5);
  submit.mutable_submit()->mutable_parameters()->set_n(2);
  connection->OnMessage(submit);
  for (int i = 0; i < 100; ++i) {
    SessionRequest cancel;
    cancel.mutable_cancel()->set_key(1);
    cancel.mutable_cancel()->set_choice(i % 4);  // 2 and 3 do not exist
    connection->OnMessage(cancel);
    if (i % 10 != 0) continue;
    cancel.mutable_cancel()->clear_choice();
    if (i > 50) connection->OnMessage(cancel);
  }
  EXPECT_EQ(inbox.cancels, 3);  // one a choice, one for all
  connection->OnClosed(absl::OkStatus());
}

}  // namespace
}  // namespace quire
