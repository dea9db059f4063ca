// A request outlives its worker: every token once, and the tokens that it would have had.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/rpc_status.h"
#include "tests/coordinator/stream_fixture.h"

namespace quire {
namespace {

using testing::HasSubstr;

class MigrationTest : public RequestStreamTest {
 protected:
  using RequestStreamTest::RequestStreamTest;

  void Restart(const std::string& address, InProcessWorker::Options options = {}) {
    options.name = address;
    options.incarnation = std::to_string(++num_restarts_ + 1);
    network_.Start(address, options);
  }
  static bool HasMoved(TestClient& client) {
    for (const v1::Notice& notice : client.notices()) {
      if (notice.kind() == v1::Notice::MIGRATED) return true;
    }
    return false;
  }

  // Where it runs, as its client was told.
  static std::string WorkerOf(const Run& run) {
    const std::vector<v1::Notice> notices = run.client->notices();
    if (notices.empty()) return run.client->accepted().worker();
    const std::string& why = notices.back().why();
    return why.substr(why.rfind(' ') + 1);
  }

  // Waits until the coordinator knows that the first worker drains.
  void WaitUntilDraining() {
    while (coordinator_.registry().Views()[0].state != v1::WorkerLoad::DRAINING) {
      coordinator_.WaitForTick();
    }
  }

  int num_restarts_ = 0;
};

TEST_F(MigrationTest, WhatHasComeGoesAlongAndWhatHasEndedDoesNotRunAgain) {
  StartWorker("a:1");  // the first of equals
  StartWorker("b:1");
  Silence("a:1");
  Run run = Start("r", Prepared(10, 2));
  std::vector<uint32_t> ids = Expected(2);
  for (const uint32_t choice : {0u, 1u})
    run.stream->OnTokens(1, choice, 0, absl::MakeSpan(ids), nullptr);
  worker::v1::Finish finish;
  finish.set_attempt(1);
  finish.set_choice(1);
  finish.set_reason(v1::Finished::STOP);
  run.stream->OnFinish(finish);
  network_.Kill("a:1");
  while (network_.Submits("b:1").empty()) {
    coordinator_.registry().Tick();
    coordinator_.WaitForTick();
  }
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(0), Expected(10));
  EXPECT_EQ(run.client->tokens(1), Expected(2));
  const auto submits = network_.Submits("b:1");
  ASSERT_EQ(submits.size(), 1u);
  const auto& emitted = submits[0].emitted(0).emitted_token_ids();
  EXPECT_EQ(std::vector<uint32_t>(emitted.begin(), emitted.end()), Expected(2));
  EXPECT_FALSE(submits[0].choice_finished(0));
  EXPECT_TRUE(submits[0].choice_finished(1));
}

TEST_F(MigrationTest, ALossWhileARequestIsBeingPlacedIsNotForgotten) {
  StartWorker("a:1");
  coordinator_.registry().Tick();
  Run run = Attach("r");
  network_.OnNextSubmit([&](const worker::v1::Submit& submit) {
    run.stream->OnWorkerLost(submit.attempt(), WorkerLoss::kGone,
                             absl::UnavailableError("lost at once"));
  });
  run.stream->Begin(Prepared(10));
  ASSERT_EQ(network_.Submits("a:1").size(), 2u);  // which has it still, for all that the link knows
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(10));
}

TEST_F(MigrationTest, StreamsOfALostWorkerGoOnElsewhere) {
  // 400 tokens take it 20 s.
  StartWorker("a:1", {.num_blocks = 8192, .max_num_seqs = 32, .step_micros = 50'000});
  std::vector<Run> runs;
  for (uint32_t i = 0; i < 12; ++i) {
    PreparedRequest request = Prepared(400 + i, 1 + i % 2);
    if (i % 3 == 0) request.parameters.set_logprobs(0);
    if (i % 4 == 0) request.parameters.set_prompt_logprobs(0);
    runs.push_back(Start("r" + std::to_string(i), std::move(request)));
  }
  for (uint32_t i = 0; i < 12; ++i) runs[i].client->WaitForTokens(1 + i);
  StartWorker("b:1", {.num_blocks = 8192, .max_num_seqs = 32});
  network_.Kill("a:1");
  for (uint32_t i = 0; i < 12; ++i) {
    TestClient& client = *runs[i].client;
    ASSERT_TRUE(client.WaitForEnd().ok());
    for (uint32_t choice = 0; choice < 1 + i % 2; ++choice) {
      EXPECT_EQ(client.tokens(choice), Expected(400 + i));
      EXPECT_EQ(client.finished().at(choice).reason(), v1::Finished::LENGTH);
      EXPECT_EQ(client.finished().at(choice).usage().output_tokens(), 400 + i);
    }
    EXPECT_EQ(client.accepted().worker(), "a:1");
    ASSERT_TRUE(HasMoved(client));
    EXPECT_THAT(client.notices().back().why(), HasSubstr("a:1: the worker is lost"));
    EXPECT_THAT(client.notices().back().why(), HasSubstr("runs on b:1"));
  }
  ExpectIdle("b:1");
}

TEST_F(MigrationTest, AStopStringAndTextCutByALossAreTheSame) {
  StartWorker("a:1", {.step_micros = 1'000});
  Run whole = Start("whole", Prepared(80));
  ASSERT_TRUE(whole.client->WaitForEnd().ok());
  const std::string text = whole.client->text();
  // Some bytes from the middle, which tokens on both sides of the cut may make.
  const std::string stop = text.substr(text.size() / 2, 6);
  ASSERT_EQ(stop.size(), 6u);
  Run undisturbed;
  {
    PreparedRequest request = Prepared(80);
    request.parameters.add_stop_strings(stop);
    undisturbed = Start("undisturbed", std::move(request));
    ASSERT_TRUE(undisturbed.client->WaitForEnd().ok());
    ASSERT_EQ(undisturbed.client->finished().at(0).reason(), v1::Finished::STOP);
  }
  const size_t length = undisturbed.client->tokens().size();
  StartWorker("b:1");
  std::vector<Run> runs;
  for (int i = 0; i < 8; ++i) {
    PreparedRequest request = Prepared(80);
    request.parameters.add_stop_strings(stop);
    runs.push_back(Start("r" + std::to_string(i), std::move(request)));
  }
  runs.back().client->WaitForTokens(length / 2);
  network_.Kill("a:1");
  for (Run& run : runs) {
    ASSERT_TRUE(run.client->WaitForEnd().ok());
    EXPECT_EQ(run.client->tokens(), undisturbed.client->tokens());
    EXPECT_EQ(run.client->text(), undisturbed.client->text());
    EXPECT_EQ(run.client->finished().at(0).stop_string(), stop);
  }
}

TEST_F(MigrationTest, WaitsForAnEqualWorkerAndForNoOther) {
  StartWorker("a:1", {.step_micros = 50'000});
  StartWorker("other:1", {.num_blocks = 1024, .numerics_id = "another"});
  PreparedRequest request = Prepared(400);
  request.worker = "a:1";
  Run pinned = Start("pinned", std::move(request));
  pinned.client->WaitForTokens(5);
  network_.Kill("a:1");
  for (int i = 0; i < 30; ++i) coordinator_.WaitForTick();
  EXPECT_FALSE(HasMoved(*pinned.client));
  EXPECT_LT(pinned.client->tokens().size(), 400u);
  Restart("a:1");
  ASSERT_TRUE(pinned.client->WaitForEnd().ok());
  EXPECT_EQ(pinned.client->tokens(), Expected(400));
  ExpectIdle("a:1");
}

TEST_F(MigrationTest, EndsUnavailableWhenNoEqualWorkerComesInTime) {
  coordinator_.set_move_timeout(50'000);
  StartWorker("a:1", {.step_micros = 50'000});
  Run run = Start("r", Prepared(400));
  run.client->WaitForTokens(3);
  StartWorker("other:1", {.numerics_id = "another"});
  network_.Kill("a:1");
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(RetryDelayOf(status).has_value());
  EXPECT_THAT(std::string(status.message()), HasSubstr("no worker that gives the same tokens"));
  const std::vector<uint32_t> tokens = run.client->tokens();
  EXPECT_EQ(tokens, Expected(static_cast<uint32_t>(tokens.size())));
}

TEST_F(MigrationTest, AWorkerThatGivesOneChoiceUpIsRidOfTheOthers) {
  StartWorker("a:1", {.step_micros = 50'000});  // the first of equals
  StartWorker("b:1", {.step_micros = 50'000});
  Silence("a:1");
  Run run = Start("r", Prepared(500, 2));
  worker::v1::Finish finish;  // of choice 0
  finish.set_attempt(1);
  finish.set_reason(v1::Finished::ABORTED);
  finish.set_status_code(static_cast<int>(absl::StatusCode::kUnavailable));
  run.stream->OnFinish(finish);
  EXPECT_EQ(network_.num_cancels("a:1"), 1u);
  run.client->WaitForTokens(1);  // of b:1
  ExpectIdle("a:1");
  run.stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(run.client->WaitForEnd()));
}

TEST_F(MigrationTest, AWorkerThatGivesEveryRequestUpDoesNotKeepOneForEver) {
  coordinator_.set_move_timeout(1'000'000);
  StartWorker("a:1");
  Silence("a:1");
  Run run = Attach("r");
  std::function<void(const worker::v1::Submit&)> give_up = [&](const worker::v1::Submit& submit) {
    network_.OnNextSubmit(give_up);
    worker::v1::Finish finish;
    finish.set_attempt(submit.attempt());
    finish.set_reason(v1::Finished::ABORTED);
    finish.set_status_code(static_cast<int>(absl::StatusCode::kUnavailable));
    finish.set_status_message("not now");
    run.stream->OnFinish(finish);
  };
  network_.OnNextSubmit(give_up);
  run.stream->Begin(Prepared(10));
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not now; no worker"));
  network_.OnNextSubmit(nullptr);
  // Asked after longer and longer pauses, not as fast as it answers.
  EXPECT_GT(network_.Submits("a:1").size(), 1u);
  EXPECT_LT(network_.Submits("a:1").size(), 15u);
}

TEST_F(MigrationTest, AResumedRequestGoesToTheNumericsThatItsTokensAreOf) {
  coordinator_.set_move_timeout(300'000);
  StartWorker("a:1");
  StartWorker("other:1", {.numerics_id = "another"});
  for (int i = 0; i < 4; ++i) {
    PreparedRequest request = Prepared(10);
    request.emitted = {Expected(2)};
    request.numerics_id = i % 2 == 0 ? "another" : "fake";
    Run run = Start("r" + std::to_string(i), std::move(request));
    ASSERT_TRUE(run.client->WaitForEnd().ok());
    EXPECT_EQ(run.client->accepted().numerics_id(), i % 2 == 0 ? "another" : "fake");
  }
  PreparedRequest request = Prepared(10);
  request.numerics_id = "gone";
  const absl::Status status = Start("r", std::move(request)).client->WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("computes other bits"));
}

TEST_F(MigrationTest, ADrainingWorkerHandsItsStreamsOn) {
  // 500 tokens take it 25 s.
  StartWorker("a:1", {.num_blocks = 8192, .step_micros = 50'000});
  std::vector<Run> runs;
  for (uint32_t i = 0; i < 6; ++i) {
    runs.push_back(Start("r" + std::to_string(i), Prepared(500, 1 + i % 2)));
  }
  for (Run& run : runs) run.client->WaitForTokens(2);
  StartWorker("b:1", {.num_blocks = 8192});
  network_.Worker("a:1")->table().StartDraining();
  // Before they would have ended there.
  EXPECT_TRUE(network_.Worker("a:1")->table().WaitUntilIdle(SteadyMicros() + 20'000'000));
  for (uint32_t i = 0; i < 6; ++i) {
    ASSERT_TRUE(runs[i].client->WaitForEnd().ok());
    for (uint32_t choice = 0; choice < 1 + i % 2; ++choice) {
      EXPECT_EQ(runs[i].client->tokens(choice), Expected(500));
    }
    EXPECT_TRUE(HasMoved(*runs[i].client));
    EXPECT_THAT(runs[i].client->notices().back().why(), HasSubstr("a:1 drains"));
  }
  ExpectIdle("b:1");
}

TEST_F(MigrationTest, ADrainingWorkerWithoutAnEqualFinishesOrGivesUpItsStreams) {
  StartWorker("a:1", {.step_micros = 1'000});
  Run finishes = Start("finishes", Prepared(30));
  finishes.client->WaitForTokens(2);
  network_.Worker("a:1")->table().StartDraining();
  ASSERT_TRUE(finishes.client->WaitForEnd().ok());
  EXPECT_EQ(finishes.client->tokens(), Expected(30));
  EXPECT_FALSE(HasMoved(*finishes.client));
  WaitUntilDraining();

  // The drain's time is over: what still runs is given up by the worker, not by the request.
  network_.Start("b:1", {.name = "b:1", .step_micros = 50'000});
  coordinator_.registry().AddStatic("b:1");
  coordinator_.WaitUntilReady(1);
  Run given_up = Start("given up", Prepared(200, 2));
  given_up.client->WaitForTokens(2);
  network_.Worker("b:1")->table().StartDraining();
  network_.Worker("b:1")->table().EndAll();
  for (int i = 0; i < 5; ++i) coordinator_.WaitForTick();
  network_.Kill("a:1");
  Restart("a:1");
  ASSERT_TRUE(given_up.client->WaitForEnd().ok());
  EXPECT_EQ(given_up.client->tokens(0), Expected(200));
  EXPECT_EQ(given_up.client->tokens(1), Expected(200));
}

// Workers that are not heard are soon given up.
class UnheardWorkerTest : public MigrationTest {
 protected:
  UnheardWorkerTest() : MigrationTest({.silence_micros = WorkerLink::kSilenceMicros}) {}
};

TEST_F(UnheardWorkerTest, ASilentWorkersStreamsMoveAndItsLateTokensAreRefused) {
  // 3,000 tokens take it 60 s.
  StartWorker("a:1", {.context = 4096, .num_blocks = 8192, .step_micros = 20'000});
  std::vector<Run> runs;
  for (uint32_t i = 0; i < 4; ++i) runs.push_back(Start("r" + std::to_string(i), Prepared(3000)));
  for (Run& run : runs) run.client->WaitForTokens(3);
  StartWorker("b:1", {.context = 4096, .num_blocks = 8192});
  network_.SetSilent("a:1", true);
  const int64_t silent_since = SteadyMicros();
  while (!HasMoved(*runs[0].client)) {
    coordinator_.registry().Tick();
    for (int i = 0; i < 10; ++i) coordinator_.WaitForTick();  // its answers lie unread
    ASSERT_LT(SteadyMicros() - silent_since, 50'000'000);
  }
  EXPECT_GT(SteadyMicros() - silent_since, WorkerLink::kSilenceMicros / 2);
  EXPECT_THAT(runs[0].client->notices().back().why(), HasSubstr("has been silent for"));
  network_.SetSilent("a:1", false);  // all that it has said meanwhile comes now
  for (Run& run : runs) {
    ASSERT_TRUE(run.client->WaitForEnd().ok());
    EXPECT_EQ(run.client->tokens(), Expected(3000));
  }
  ExpectIdle("a:1");  // it was told to forget them, long before it would have ended them
  ExpectIdle("b:1");
}

TEST_F(UnheardWorkerTest, ADeafWorkersStreamsMoveThoughItSpeaks) {
  // 8,000 tokens take it 160 s.
  StartWorker("a:1", {.context = 16384, .num_blocks = 8192, .step_micros = 20'000});
  Run run = Start("r", Prepared(8000));
  run.client->WaitForTokens(3);
  StartWorker("b:1", {.context = 16384, .num_blocks = 8192});
  network_.SetDeaf("a:1", true);
  const int64_t deaf_since = SteadyMicros();
  while (!HasMoved(*run.client)) {
    run.client->WaitForTokens(run.client->tokens().size() + 5);  // it speaks
    coordinator_.registry().Tick();
    ASSERT_LT(SteadyMicros() - deaf_since, 120'000'000);
  }
  EXPECT_GT(SteadyMicros() - deaf_since, WorkerLink::kSilenceMicros * 2);
  EXPECT_THAT(run.client->notices().back().why(), HasSubstr("has answered no ping"));
  network_.SetDeaf("a:1", false);
  ASSERT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(8000));
  ExpectIdle("a:1");
  ExpectIdle("b:1");
}

TEST_F(MigrationTest, LosingSightOfWorkersMakesNoSuspect) {
  coordinator_.set_quarantine_after(2);
  for (const char* address : {"a:1", "b:1"}) StartWorker(address, {.step_micros = 50'000});
  Run run = Start("r", Prepared(480));
  for (int round = 0; round < 5; ++round) {
    run.client->WaitForTokens(run.client->tokens().size() + 1);
    uint32_t attempt = 0;
    for (const char* address : {"a:1", "b:1"}) {
      for (const auto& submit : network_.Submits(address)) {
        attempt = std::max(attempt, submit.attempt());
      }
    }
    run.stream->OnWorkerLost(attempt, WorkerLoss::kUnheard, absl::UnavailableError("silent"));
  }
  run.stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(run.client->WaitForEnd()));
  EXPECT_EQ(run.client->notices().size(), 5u);
  const std::vector<uint32_t> tokens = run.client->tokens();
  EXPECT_EQ(tokens, Expected(static_cast<uint32_t>(tokens.size())));
}

TEST_F(MigrationTest, TheEndOfADrainMakesNoSuspect) {
  coordinator_.set_quarantine_after(1);
  StartWorker("a:1", {.step_micros = 20'000});
  Run run = Start("r", Prepared(60));
  for (int round = 0; round < 3; ++round) {
    run.client->WaitForTokens(run.client->tokens().size() + 1);
    network_.Worker("a:1")->table().StartDraining();
    WaitUntilDraining();
    network_.Kill("a:1");
    Restart("a:1", {.step_micros = 20'000});
  }
  ASSERT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(60));
}

TEST_F(MigrationTest, ASuspectRunsAloneAndIsQuarantinedIfThatWorkerIsLostToo) {
  coordinator_.set_quarantine_after(2);
  // Nothing comes far at 0.3 s a token.
  for (const char* address : {"a:1", "b:1", "c:1", "d:1"})
    StartWorker(address, {.step_micros = 300'000});
  Run suspect = Start("suspect", Prepared(480));
  std::set<std::string> lost;
  for (int round = 0; round < 3; ++round) {
    suspect.client->WaitForTokens(suspect.client->tokens().size() + 1);
    const std::string worker = WorkerOf(suspect);
    ASSERT_NE(worker, "");
    if (round > 0) {
      // After two deaths it has the worker to itself: others run elsewhere, whatever the load.
      std::vector<Run> others;
      int num_beside = 0;
      for (int i = 0; i < 8; ++i) {
        others.push_back(Start("other" + std::to_string(round) + std::to_string(i), Prepared(30)));
        num_beside += others.back().client->accepted().worker() == worker ? 1 : 0;
      }
      for (const Run& other : others) {
        EXPECT_NE(other.client->accepted().worker(), "");
        other.stream->End(absl::CancelledError("only its place was of interest"));
      }
      EXPECT_EQ(num_beside > 0, round < 2);
    }
    lost.insert(worker);
    network_.Kill(worker);
  }
  EXPECT_EQ(lost.size(), 3u);
  const absl::Status status = suspect.client->WaitForEnd();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("quarantined: 3 workers were lost"));
  // Nor does it run again; another body does. All bodies are the same here, so this is one of them.
  const RequestStream::Context context = coordinator_.MakeContext();
  const auto again = coordinator_.streams().FindOrMake("suspect again", "body", [&] {
    return std::make_shared<RequestStream>(999, "suspect again", "body", context);
  });
  EXPECT_TRUE(absl::IsFailedPrecondition(again.status())) << again.status();
  const auto other = coordinator_.streams().FindOrMake("other again", "another body", [&] {
    return std::make_shared<RequestStream>(1000, "other again", "another body", context);
  });
  EXPECT_TRUE(other.ok());
}

TEST_F(MigrationTest, ARequestThatComesFurtherThanWhereWorkersDiedIsNoSuspect) {
  coordinator_.set_quarantine_after(2);
  for (const char* address : {"a:1", "b:1", "c:1"}) StartWorker(address, {.step_micros = 2'000});
  Run run = Start("r", Prepared(400));
  for (const char* lost : {"a:1", "b:1"}) {
    run.client->WaitForTokens(run.client->tokens().size() + 1);
    network_.Kill(lost);
  }
  // It runs alone on the last one, and is soon cleared: others run there, and another death is
  // none of its.
  const size_t had = run.client->tokens().size();
  run.client->WaitForTokens(had + 100);
  Run other = Start("other", Prepared(10));
  ASSERT_TRUE(other.client->WaitForEnd().ok());
  EXPECT_EQ(other.client->accepted().worker(), "c:1");
  Restart("a:1", {.step_micros = 1'000});
  network_.Kill("c:1");
  ASSERT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(400));
}

TEST_F(MigrationTest, ASuspectWaitsForAnIdleWorkerOnlySoLongAndKeepsNobodyOut) {
  coordinator_.set_quarantine_after(2);
  coordinator_.set_move_timeout(1'000'000);
  for (const char* address : {"a:1", "b:1"}) {
    StartWorker(address, {.num_blocks = 8192, .step_micros = 50'000});
  }
  // 2,000 tokens take it 40 s.
  StartWorker("busy:1", {.context = 4096, .num_blocks = 8192, .step_micros = 20'000});
  PreparedRequest long_one = Prepared(2000);
  long_one.worker = "busy:1";
  Run busy = Start("busy", std::move(long_one));
  busy.client->WaitForTokens(1);
  Run suspect = Start("suspect", Prepared(100));
  for (int i = 0; i < 2; ++i) {
    suspect.client->WaitForTokens(suspect.client->tokens().size() + 1);
    network_.Kill(WorkerOf(suspect));
  }
  // The only worker that is left does not become idle; what comes anew is served there.
  for (int i = 0; i < 3; ++i) {
    Run other = Start("other" + std::to_string(i), Prepared(2));
    EXPECT_TRUE(other.client->WaitForEnd().ok());
  }
  ASSERT_TRUE(suspect.client->WaitForEnd().ok());
  EXPECT_EQ(suspect.client->tokens(), Expected(100));
  EXPECT_EQ(WorkerOf(suspect), "busy:1");
  busy.stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(busy.client->WaitForEnd()));
}

TEST_F(MigrationTest, WorkersThatDrainedOnceTakeARequestAgain) {
  StartWorker("a:1", {.num_blocks = 8192, .step_micros = 50'000});
  Run run = Start("r", Prepared(500));
  run.client->WaitForTokens(2);
  StartWorker("b:1", {.num_blocks = 8192, .step_micros = 50'000});
  // One restarts after the other, as a new version comes in. 500 tokens take 25 s.
  for (const char* address : {"a:1", "b:1", "a:1"}) {
    const auto worker = network_.Worker(address);
    worker->table().StartDraining();
    EXPECT_TRUE(worker->table().WaitUntilIdle(SteadyMicros() + 20'000'000)) << address;
    run.client->WaitForTokens(run.client->tokens().size() + 2);
    network_.Kill(address);
    Restart(address, {.num_blocks = 8192, .step_micros = 50'000});
    coordinator_.WaitUntilReady(2);
  }
  run.stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(run.client->WaitForEnd()));
  const std::vector<uint32_t> tokens = run.client->tokens();
  EXPECT_EQ(tokens, Expected(static_cast<uint32_t>(tokens.size())));
}

// With so many tokens from the coordinator that it ran at before.
class ResumeTest : public MigrationTest, public testing::WithParamInterface<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Tokens, ResumeTest, testing::Values(4, 0));

TEST_P(ResumeTest, WaitsWhereItsOrphanMayHoldThePlace) {
  const uint32_t num_tokens = GetParam();
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 0, .step_micros = 20'000});
  Run first = Start("first", Prepared(500));
  first.client->WaitForTokens(1);
  const absl::Status full = Start("new", Prepared(5)).client->WaitForEnd();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  PreparedRequest request = Prepared(10);
  request.emitted = {Expected(num_tokens)};
  request.numerics_id = "fake";
  Run resumed = Start("resumed", std::move(request));
  first.stream->Cancel();
  EXPECT_TRUE(resumed.client->WaitForEnd().ok());
  EXPECT_EQ(resumed.client->tokens(), Expected(10, num_tokens));
  EXPECT_FALSE(HasMoved(*resumed.client));
  EXPECT_TRUE(absl::IsCancelled(first.client->WaitForEnd()));
}

TEST_F(MigrationTest, EveryTokenOnceWhateverIsKilledWhen) {
  InProcessWorker::Options options{.max_num_seqs = 8, .step_micros = 300};
  for (const char* address : {"a:1", "b:1", "c:1"}) StartWorker(address, options);
  constexpr uint32_t kStreams = 40;
  std::vector<Run> runs;
  for (uint32_t i = 0; i < kStreams; ++i) {
    runs.push_back(Start("r" + std::to_string(i), Prepared(100 + i, 1 + i % 3)));
  }
  std::mt19937 random(7);
  const char* const addresses[] = {"a:1", "b:1", "c:1"};
  for (int kill = 0; kill < 30; ++kill) {
    const std::string address = addresses[random() % 3];
    if (random() % 4 == 0) {
      network_.Worker(address)->table().StartDraining();
      network_.Worker(address)->table().EndAll();
    }
    network_.Kill(address);
    for (uint32_t i = random() % 4; i > 0; --i) coordinator_.WaitForTick();
    Restart(address, options);
    for (uint32_t i = random() % 20; i > 0; --i) coordinator_.WaitForTick();
  }
  for (uint32_t i = 0; i < kStreams; ++i) {
    const absl::Status status = runs[i].client->WaitForEnd();
    ASSERT_TRUE(status.ok()) << i << ": " << status;
    for (uint32_t choice = 0; choice < 1 + i % 3; ++choice) {
      EXPECT_EQ(runs[i].client->tokens(choice), Expected(100 + i));
    }
  }
  coordinator_.WaitUntilReady(3);
  for (const char* address : addresses) ExpectIdle(address);
}

}  // namespace
}  // namespace quire
