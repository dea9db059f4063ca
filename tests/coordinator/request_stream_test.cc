#include "coordinator/stream/request_stream.h"

#include <gtest/gtest.h>
#include "common/rpc_status.h"
#include "tests/coordinator/stream_fixture.h"

namespace quire {
namespace {

TEST_F(RequestStreamTest, StreamsTokensWithTheirText) {
  StartWorker("a:1");
  Run run = Start("r", Prepared(20));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(20));
  EXPECT_EQ(run.client->accepted().worker(), "a:1");
  const auto& tokenizer = *coordinator_.model()->tokenizer();
  std::vector<uint32_t> all = {100, 200, 300};
  const std::string before = *tokenizer.Decode(all, true);
  for (const uint32_t id : Expected(20)) all.push_back(id);
  EXPECT_EQ(before + run.client->text(), *tokenizer.Decode(all, true));
  const v1::Finished finished = run.client->finished().at(0);
  EXPECT_EQ(finished.reason(), v1::Finished::LENGTH);
  EXPECT_EQ(finished.usage().output_tokens(), 20u);
  while (coordinator_.records().empty()) coordinator_.WaitForTick();
  EXPECT_EQ(coordinator_.records().size(), 1u);
  EXPECT_EQ(coordinator_.records()[0].output_tokens, 20u);
  ExpectIdle("a:1");
}

TEST_F(RequestStreamTest, ASlowReaderGetsFewerLargerMessages) {
  StartWorker("a:1");
  Run run = Attach("r");
  run.client->SetReads(false);
  run.stream->Begin(Prepared(100));
  EXPECT_TRUE(network_.Worker("a:1")->table().WaitUntilIdle(SteadyMicros() + 20'000'000));
  while (coordinator_.records().empty()) coordinator_.WaitForTick();
  run.client->SetReads(true);
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(100));
  EXPECT_EQ(run.client->num_deltas(), 1u);
}

TEST_F(RequestStreamTest, LogProbabilitiesOfALongPromptComeInParts) {
  StartWorker("a:1", {.context = 20'000, .num_blocks = 8'000});
  PreparedRequest request = Prepared(5);
  request.prompt.assign(10'000, 7);
  request.parameters.set_prompt_logprobs(0);
  request.parameters.set_logprobs(0);
  Run run = Start("r", std::move(request));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->num_prompt_logprobs(), 9'999u);
  EXPECT_EQ(run.client->tokens().size(), 5u);

  // All of them again for a client that comes anew, none for one that has the first token.
  const auto again = std::make_shared<TestClient>(run.stream);
  again->Kick();
  EXPECT_TRUE(again->WaitForEnd().ok());
  EXPECT_EQ(again->num_prompt_logprobs(), 9'999u);
  const auto later = std::make_shared<TestClient>(
      run.stream, std::vector<std::vector<uint32_t>>{{run.client->tokens()[0]}});
  later->Kick();
  EXPECT_TRUE(later->WaitForEnd().ok());
  EXPECT_EQ(later->num_prompt_logprobs(), 0u);
}

TEST_F(RequestStreamTest, TokensWithoutTheirLogprobsEndTheRequest) {
  StartWorker("a:1");
  Silence("a:1");
  std::vector<uint32_t> ids = Expected(4);
  worker::v1::EntryLogprobs both;
  for (int i = 0; i < 2; ++i) both.add_output()->set_logprob(FakeExecutor::LogprobAt(3 + i));
  for (const bool skips : {false, true}) {
    PreparedRequest request = Prepared(10);
    request.parameters.set_logprobs(0);
    Run run = Start(skips ? "skips" : "none", std::move(request));
    run.stream->OnTokens(1, 0, 0, absl::MakeSpan(ids).first(2), &both);
    worker::v1::EntryLogprobs later;
    later.set_first_index(3);
    later.add_output()->set_logprob(-1);
    run.stream->OnTokens(1, 0, 2, absl::MakeSpan(ids).last(2), skips ? &later : nullptr);
    run.stream->OnMessageEnd();
    const absl::Status status = run.client->WaitForEnd();
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_EQ(run.client->tokens(), Expected(2));
  }
}

TEST_F(RequestStreamTest, TokensBeforeThePromptsLogprobsEndTheRequest) {
  StartWorker("a:1");
  Silence("a:1");
  PreparedRequest request = Prepared(10);
  request.parameters.set_prompt_logprobs(0);
  Run run = Start("r", std::move(request));
  worker::v1::EntryLogprobs first;  // of two
  first.set_first_prompt_position(1);
  first.add_prompt()->set_logprob(FakeExecutor::LogprobAt(1));
  run.stream->OnPromptLogprobs(first);
  std::vector<uint32_t> ids = Expected(1);
  run.stream->OnTokens(1, 0, 0, absl::MakeSpan(ids), nullptr);
  run.stream->OnMessageEnd();
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_TRUE(run.client->tokens().empty());
}

TEST_F(RequestStreamTest, AWorkersWordsReachClientsWithinABound) {
  StartWorker("a:1");
  Silence("a:1");
  Run run = Start("r", Prepared(10));
  v1::Notice notice;
  notice.set_kind(v1::Notice::PREEMPTED);
  notice.set_why(std::string(5 << 20, 'x'));
  run.stream->OnNotice(notice);
  run.stream->OnMessageEnd();
  run.stream->End(absl::CancelledError("the test is over"));
  run.client->WaitForEnd().IgnoreError();
  ASSERT_EQ(run.client->notices().size(), 1u);
  EXPECT_EQ(run.client->notices()[0].kind(), v1::Notice::PREEMPTED);
  EXPECT_LT(run.client->notices()[0].ByteSizeLong(), 2000u);
}

TEST_F(RequestStreamTest, ASecondClientTakesOverFromTheStart) {
  StartWorker("a:1");
  Silence("a:1");
  Run first = Start("r", Prepared(500));
  std::vector<uint32_t> ids = Expected(5);
  first.stream->OnTokens(1, 0, 0, absl::MakeSpan(ids), nullptr);
  first.stream->OnMessageEnd();
  EXPECT_EQ(first.client->tokens(), Expected(5));
  Run second = Attach("r");
  EXPECT_EQ(second.stream, first.stream);
  EXPECT_TRUE(absl::IsAborted(first.client->WaitForEnd()));
  Unsilence("a:1");
  EXPECT_TRUE(second.client->WaitForEnd().ok());
  EXPECT_EQ(second.client->tokens(), Expected(500));
}

TEST_F(RequestStreamTest, ASecondClientGoesOnAfterWhatItHas) {
  StartWorker("a:1", {.step_micros = 2'000});
  Run first = Start("r", Prepared(60));
  first.client->WaitForTokens(10);
  std::vector<uint32_t> has = first.client->tokens();
  has.resize(10);  // by now there may be all
  Run second = Attach("r", {has});
  EXPECT_TRUE(second.client->WaitForEnd().ok());
  EXPECT_EQ(second.client->first_index(), has.size());
  EXPECT_EQ(second.client->tokens(), Expected(60, has.size()));
}

TEST_F(RequestStreamTest, RefusesToResumeWithOtherTokens) {
  StartWorker("a:1", {.step_micros = 2'000});
  Run first = Start("r", Prepared(60));
  first.client->WaitForTokens(10);
  Run second = Attach("r", {{1, 2, 3}});
  const absl::Status status = second.client->WaitForEnd();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(FieldOf(status), "resume.choices[0].emitted_token_ids");
  second.stream->ClientGone(second.client.get());  // as its call does
  EXPECT_TRUE(first.client->WaitForEnd().ok()) << "the request is none of the second client's";
  EXPECT_EQ(first.client->tokens(), Expected(60));
}

TEST_F(RequestStreamTest, AClientThatIsAheadIsComparedOnceTheStreamIsThere) {
  StartWorker("a:1", {.step_micros = 2'000});
  Silence("a:1");
  Run first = Start("r", Prepared(500));
  Run ahead = Attach("r", {Expected(400)});
  Unsilence("a:1");
  EXPECT_TRUE(ahead.client->WaitForEnd().ok());
  EXPECT_EQ(ahead.client->first_index(), 400u);
  EXPECT_EQ(ahead.client->tokens(), Expected(500, 400));
  EXPECT_TRUE(absl::IsAborted(first.client->WaitForEnd()));
  EXPECT_GE(first.client->tokens().size(), 20u) << "it was served until then";

  Run second = Start("s", Prepared(60));
  second.client->WaitForTokens(3);
  std::vector<uint32_t> wrong = Expected(40);
  wrong[39] ^= 1;
  Run other = Attach("s", {wrong});
  EXPECT_TRUE(absl::IsInvalidArgument(other.client->WaitForEnd()));
  EXPECT_TRUE(second.client->WaitForEnd().ok());
}

TEST_F(RequestStreamTest, AClientThatWaitsGetsTheRequestOfOneThatGoesAway) {
  StartWorker("a:1");
  Silence("a:1");
  Run first = Start("r", Prepared(60));
  Run ahead = Attach("r", {Expected(40)});
  Run leaving = Attach("r", {Expected(50)}, SteadyMicros() + 600'000'000);
  leaving.stream->ClientGone(leaving.client.get());
  first.stream->ClientGone(first.client.get());
  Unsilence("a:1");
  EXPECT_TRUE(ahead.client->WaitForEnd().ok());
  EXPECT_EQ(ahead.client->tokens(), Expected(60, 40));
}

TEST_F(RequestStreamTest, AClientThatWaitsHearsWhyAChoiceWasAborted) {
  StartWorker("a:1");
  Silence("a:1");
  Run run = Start("r", Prepared(100, 2));
  Run ahead = Attach("r", {Expected(40), {}});
  worker::v1::Finish finish;
  finish.set_attempt(1);
  finish.set_reason(v1::Finished::ABORTED);
  finish.set_status_code(static_cast<int>(absl::StatusCode::kInternal));
  finish.set_status_message("broken");
  run.stream->OnFinish(finish);  // the other choice has not ended yet
  run.stream->OnMessageEnd();
  finish.set_choice(1);
  run.stream->OnFinish(finish);
  const absl::Status status = ahead.client->WaitForEnd();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
}

TEST_F(RequestStreamTest, AClientThatWaitsCanRunOutOfTime) {
  StartWorker("a:1");
  Silence("a:1");
  Run first = Start("r", Prepared(100));
  Run ahead = Attach("r", {Expected(99)}, SteadyMicros() + 20'000);
  EXPECT_TRUE(absl::IsDeadlineExceeded(ahead.client->WaitForEnd()));
  Unsilence("a:1");
  EXPECT_TRUE(first.client->WaitForEnd().ok());
}

TEST_F(RequestStreamTest, AFailedRequestIsNotJoined) {
  StartWorker("a:1");
  Silence("a:1");
  Run first = Start("r", Prepared(60));
  const auto late = std::make_shared<TestClient>(first.stream);
  first.stream->ClientGone(first.client.get());
  EXPECT_FALSE(first.stream->Attach(late, {}, std::nullopt, ""));
  // Also not by one that finds it before the table hears of its end.
  std::shared_ptr<RequestStream> failing;
  std::shared_ptr<RequestStream> other;
  RequestStream::Context context = coordinator_.MakeContext();
  const auto find = [&] {
    return coordinator_.streams()
        .FindOrMake("s", "body",
                    [&] { return std::make_shared<RequestStream>(1'000, "s", "body", context); })
        ->stream;
  };
  context.on_end = [&](RequestStream& stream, const RequestRecord& record) {
    if (other == nullptr) other = find();
    coordinator_.streams().OnEnd(stream, record.status);
  };
  failing = find();
  failing->End(absl::CancelledError("the client went away"));
  EXPECT_NE(other, failing);
  other->End(absl::OkStatus());
}

TEST_F(RequestStreamTest, WhatWasHeldBackComesWhenARequestFails) {
  coordinator_.set_move_timeout(0);
  StartWorker("a:1", {.step_micros = 50'000});
  const auto& tokenizer = *coordinator_.model()->tokenizer();
  // A stop string that the text of the first tokens could begin, and does not.
  std::vector<uint32_t> all = {100, 200, 300};
  const std::string before = *tokenizer.Decode(all, true);
  const std::vector<uint32_t> tokens = Expected(8);
  all.insert(all.end(), tokens.begin(), tokens.end());
  PreparedRequest request = Prepared(400);
  request.parameters.add_stop_strings(tokenizer.Decode(all, true)->substr(before.size()) + "\x01");
  Run run = Start("r", std::move(request));
  run.client->WaitForTokens(3);
  network_.Kill("a:1");
  EXPECT_TRUE(absl::IsUnavailable(run.client->WaitForEnd()));
  all = {100, 200, 300};
  for (const uint32_t id : run.client->tokens()) all.push_back(id);
  EXPECT_EQ(before + run.client->text(), *tokenizer.Decode(all, true));
  EXPECT_EQ(run.client->finished().at(0).reason(), v1::Finished::ABORTED);
}

TEST_F(RequestStreamTest, ACancelledRequestIsNotPlacedAgain) {
  StartWorker("a:1", {.step_micros = 20'000});
  Run run = Start("r", Prepared(400));
  run.client->WaitForTokens(1);
  run.stream->Cancel();
  run.stream->OnRejected(/*attempt=*/1, absl::ResourceExhaustedError("the queue is full"));
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(RequestStreamTest, AnEndedRequestHoldsNoTokenizer) {
  StartWorker("a:1", {.step_micros = 500});
  const std::shared_ptr<const ServedModel> model = coordinator_.model();
  const auto num_holders = model->tokenizer().use_count();
  Run whole = Start("r", Prepared(10, 3));
  EXPECT_TRUE(whole.client->WaitForEnd().ok());
  Run failed = Start("s", Prepared(400, 3));
  failed.client->WaitForTokens(2);
  failed.stream->End(absl::InternalError("for the test"));
  EXPECT_EQ(model->tokenizer().use_count(), num_holders);
}

TEST_F(RequestStreamTest, ANewRequestContinuesFromEmittedTokens) {
  StartWorker("a:1");
  PreparedRequest request = Prepared(30);
  request.emitted = {Expected(12)};
  Run run = Start("r", std::move(request));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->first_index(), 12u);
  EXPECT_EQ(run.client->tokens(), Expected(30, 12));
}

TEST_F(RequestStreamTest, AnEndedRequestAnswersAgain) {
  StartWorker("a:1");
  EXPECT_TRUE(Start("r", Prepared(10)).client->WaitForEnd().ok());
  while (coordinator_.records().empty()) coordinator_.WaitForTick();
  Run again = Attach("r");
  EXPECT_TRUE(again.client->WaitForEnd().ok());
  EXPECT_EQ(again.client->tokens(), Expected(10));
  EXPECT_EQ(coordinator_.records().size(), 1u) << "it ran once";
}

TEST_F(RequestStreamTest, AStopStringEndsAChoiceAtItsToken) {
  StartWorker("a:1", {.step_micros = 500});
  const auto& tokenizer = *coordinator_.model()->tokenizer();
  // Some token whose text the choice brings after a few others.
  const std::vector<uint32_t> tokens = Expected(40);
  std::string stop;
  uint32_t stop_index = 0;
  for (uint32_t i = 8; i < 40 && stop.empty(); ++i) {
    const std::string text = *tokenizer.Decode({&tokens[i], 1}, true);
    const bool ascii =
        std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (ascii && text.size() >= 3) {
      stop = text;
      stop_index = i;
    }
  }
  ASSERT_FALSE(stop.empty());
  PreparedRequest request = Prepared(400);
  request.parameters.add_stop_strings(stop);
  Run run = Start("r", std::move(request));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  const v1::Finished finished = run.client->finished().at(0);
  EXPECT_EQ(finished.reason(), v1::Finished::STOP);
  EXPECT_EQ(finished.stop_string(), stop);
  EXPECT_LE(run.client->tokens().size(), stop_index + 1);
  EXPECT_EQ(finished.usage().output_tokens(), run.client->tokens().size());
  EXPECT_EQ(run.client->text().find(stop), std::string::npos);
  ExpectIdle("a:1");
}

TEST_F(RequestStreamTest, AResumeThatHasEndedDoesNotEndWellUnaccepted) {
  coordinator_.set_move_timeout(50'000);
  StartWorker("a:1");
  PreparedRequest request = Prepared(400);
  request.emitted = {Expected(40)};
  const std::string text = *coordinator_.model()->tokenizer()->Decode(request.emitted[0], true);
  const auto letter =
      std::find_if(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
  ASSERT_NE(letter, text.end());
  request.parameters.add_stop_strings(std::string(1, *letter));
  request.worker = "b:1";  // not there
  Run run = Start("r", std::move(request));
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST_F(RequestStreamTest, ATokenCountsOnceAndOfTheCurrentAttemptAlone) {
  StartWorker("a:1");
  Silence("a:1");
  Run run = Start("r", Prepared(10));
  const std::vector<uint32_t> tokens = Expected(4);
  const auto say = [&](uint32_t attempt, uint32_t first_index, std::vector<uint32_t> ids) {
    run.stream->OnTokens(attempt, 0, first_index, absl::MakeSpan(ids), nullptr);
    run.stream->OnMessageEnd();
  };
  say(1, 0, {tokens[0], tokens[1]});
  say(0, 2, {1});
  say(2, 2, {1});
  EXPECT_EQ(run.client->tokens(), Expected(2));
  say(1, 1, {tokens[1], tokens[2]});  // one that is known, and the next
  say(1, 0, {tokens[0]});
  EXPECT_EQ(run.client->tokens(), Expected(3));
  worker::v1::Finish finish;
  finish.set_attempt(1);
  finish.set_reason(v1::Finished::LENGTH);
  finish.mutable_usage()->set_output_tokens(3);
  run.stream->OnFinish(finish);
  say(1, 3, {tokens[3]});
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  EXPECT_EQ(run.client->tokens(), Expected(3));
}

TEST_F(RequestStreamTest, TokensAfterTheEndOfAChoiceAreNone) {
  StartWorker("a:1");
  Silence("a:1");
  Run run = Start("r", Prepared(10, 2));
  std::vector<uint32_t> ids = Expected(2);
  run.stream->OnTokens(1, 0, 0, absl::MakeSpan(ids), nullptr);
  worker::v1::Finish finish;
  finish.set_attempt(1);
  finish.set_reason(v1::Finished::STOP);
  run.stream->OnFinish(finish);
  run.stream->OnTokens(1, 0, 2, absl::MakeSpan(ids), nullptr);
  run.stream->OnMessageEnd();
  EXPECT_EQ(run.client->tokens(0), Expected(2));
  run.stream->End(absl::CancelledError("the test is over"));
}

TEST_F(RequestStreamTest, WhatComesOfAnAttemptAfterItsWorkerIsLostIsVoid) {
  StartWorker("a:1");
  Silence("a:1");
  Run run = Start("r", Prepared(10));
  network_.Kill("a:1");
  while (coordinator_.registry().Views().front().state == v1::WorkerLoad::READY) {
    coordinator_.WaitForTick();
  }
  run.stream->OnWorkerLost(1, WorkerLoss::kGone,
                           absl::UnavailableError("lost"));  // if the link has not said so yet
  std::vector<uint32_t> late = {1, 2};
  run.stream->OnTokens(1, 0, 0, absl::MakeSpan(late), nullptr);
  run.stream->OnMessageEnd();
  EXPECT_TRUE(run.client->tokens().empty());
  run.stream->End(absl::CancelledError("the test is over"));
}

TEST_F(RequestStreamTest, WhatAResumeBroughtHasNoLogprobsForOthers) {
  StartWorker("a:1");
  PreparedRequest request = Prepared(10);
  request.parameters.set_logprobs(0);
  request.emitted = {Expected(4)};
  Run run = Start("r", std::move(request));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  // It checks the values that it gets.
  const auto late = std::make_shared<TestClient>(run.stream, ResumeTokens());
  ASSERT_TRUE(run.stream->Attach(late, {}, std::nullopt, ""));
  EXPECT_TRUE(late->WaitForEnd().ok());
  EXPECT_EQ(late->tokens(), Expected(10));
  EXPECT_EQ(late->num_deltas(), 2u);
}

TEST_F(RequestStreamTest, CancelReportsUsageAndFreesTheBlocks) {
  StartWorker("a:1", {.step_micros = 50'000});
  Run run = Start("r", Prepared(400, 3));
  run.client->WaitForTokens(3);
  coordinator_.streams().FindLive("r")->Cancel();
  EXPECT_TRUE(absl::IsCancelled(run.client->WaitForEnd()));
  ASSERT_EQ(run.client->finished().size(), 3u);
  EXPECT_EQ(run.client->finished().at(1).reason(), v1::Finished::ABORTED);
  EXPECT_GE(run.client->finished().at(0).usage().output_tokens(), 3u);
  ExpectIdle("a:1");
}

TEST_F(RequestStreamTest, AClientThatGoesAwayCancels) {
  StartWorker("a:1", {.step_micros = 50'000});
  Run run = Start("r", Prepared(400));
  run.client->WaitForTokens(3);
  run.stream->ClientGone(run.client.get());
  EXPECT_EQ(coordinator_.streams().num_live(), 0u);
  ExpectIdle("a:1");
  // The id is free again.
  Run again = Start("r", Prepared(5));
  EXPECT_TRUE(again.client->WaitForEnd().ok());
  EXPECT_EQ(again.client->tokens(), Expected(5));
}

TEST_F(RequestStreamTest, ADeadlineSaysWhereTheRequestWas) {
  StartWorker("a:1", {.step_micros = 50'000});
  Run run = Attach("r", {}, SteadyMicros() + 100'000);
  run.stream->Begin(Prepared(400));
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("timeout_ms passed: "), std::string::npos) << status;
  EXPECT_NE(status.message().find("tokens out"), std::string::npos) << status;
  ExpectIdle("a:1");

  PreparedRequest resumed = Prepared(400);
  resumed.emitted = {Expected(12)};
  Run later = Attach("s", resumed.emitted, SteadyMicros() + 100'000);
  later.stream->Begin(std::move(resumed));
  const absl::Status again = later.client->WaitForEnd();
  const std::string out = " " + std::to_string(later.client->tokens().size()) + " tokens out";
  EXPECT_NE(again.message().find(out), std::string::npos) << again << ", without those it had";
}

TEST_F(RequestStreamTest, ALostWorkerEndsStreamsThatMayNotMoveAndServesWhenItIsBack) {
  coordinator_.set_move_timeout(0);
  StartWorker("a:1", {.step_micros = 50'000});
  Run run = Start("r", Prepared(400));
  run.client->WaitForTokens(3);
  network_.Kill("a:1");
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(RetryDelayOf(status).has_value());
  network_.Start("a:1", {.name = "a:1", .incarnation = "2"});
  coordinator_.WaitUntilReady(1);
  Run again = Start("r2", Prepared(5));
  EXPECT_TRUE(again.client->WaitForEnd().ok());
  EXPECT_EQ(again.client->tokens(), Expected(5));
}

TEST_F(RequestStreamTest, AFullQueueIsAnErrorWithADelay) {
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 1, .step_micros = 50'000});
  std::vector<Run> runs;
  for (int i = 0; i < 6; ++i) runs.push_back(Start("r" + std::to_string(i), Prepared(400)));
  runs[0].client->WaitForTokens(1);
  std::vector<Run> full;
  while (full.size() < 3) {
    coordinator_.WaitForTick();
    full.clear();
    for (const Run& run : runs) {
      if (run.stream->has_ended()) full.push_back(run);
    }
  }
  for (const Run& run : full) {
    const absl::Status status = run.client->WaitForEnd();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_TRUE(RetryDelayOf(status).has_value());
  }
  for (const Run& run : runs) run.stream->Cancel();
  EXPECT_TRUE(absl::IsCancelled(runs[0].client->WaitForEnd()));
  ExpectIdle("a:1");
}

TEST_F(RequestStreamTest, ARequestThatCouldNeverFitSaysWhy) {
  StartWorker("a:1", {.num_blocks = 8});
  Run run = Start("r", Prepared(100));
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("26 KV blocks"), std::string::npos) << status;
  EXPECT_NE(status.message().find("has 8"), std::string::npos) << status;
}

TEST_F(RequestStreamTest, ManyClientsOverTwoWorkers) {
  // The first lasts 30 ms at least, so that the others find it there.
  for (const char* address : {"a:1", "b:1"}) StartWorker(address, {.step_micros = 1'000});
  std::vector<Run> runs;
  for (int i = 0; i < 40; ++i) runs.push_back(Start("r" + std::to_string(i), Prepared(30 + i)));
  std::set<std::string> workers;
  for (int i = 0; i < 40; ++i) {
    EXPECT_TRUE(runs[i].client->WaitForEnd().ok());
    EXPECT_EQ(runs[i].client->tokens(), Expected(30 + i));
    workers.insert(runs[i].client->accepted().worker());
  }
  EXPECT_EQ(workers.size(), 2u);
  ExpectIdle("a:1");
  ExpectIdle("b:1");
}

TEST_F(RequestStreamTest, ManyThreadsStartCancelAndLoseWorkers) {
  StartWorker("a:1");
  StartWorker("b:1");
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 15; ++i) {
        Run run =
            Start("t" + std::to_string(t) + "." + std::to_string(i), Prepared(20 + i, 1 + i % 2));
        if (i % 3 == 1) run.stream->Cancel();
        if (i % 5 == 2) run.stream->ClientGone(run.client.get());
        if (i % 5 == 2) continue;
        const absl::Status status = run.client->WaitForEnd();
        if (status.ok()) {
          EXPECT_EQ(run.client->tokens(), Expected(20 + i));
        }
      }
    });
  }
  network_.Kill("b:1");
  network_.Start("b:1", {.name = "b:1", .incarnation = "2"});
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(coordinator_.streams().WaitUntilIdle(SteadyMicros() + 20'000'000));
  coordinator_.WaitUntilReady(2);
  ExpectIdle("a:1");
}

TEST(ChoiceOutputTest, OnlyAWholeOutputEndsInAStopStringOfUnfinishedBytes) {
  const auto tokenizer = *Tokenizer::Load(Files());
  const std::string replacement = "\xEF\xBF\xBD";
  // The id of a byte that begins a character.
  const auto waits = [&](uint32_t id) {
    return *tokenizer->Decode({&id, 1}, true) == replacement &&
           (*StreamDetokenizer::Create(tokenizer, {}, {}))->Append({&id, 1})->text.empty();
  };
  uint32_t id = 0;
  while (!waits(id)) ASSERT_LT(++id, 8192u);
  v1::ResolvedParameters parameters;
  parameters.set_n(2);
  parameters.add_stop_strings(replacement);
  auto choices = *ChoiceOutput::CreateAll(tokenizer, {}, parameters);
  for (ChoiceOutput& choice : choices) EXPECT_FALSE(*choice.Append({id}));
  EXPECT_TRUE(*choices[0].Flush(/*aborted=*/false));
  EXPECT_TRUE(choices[0].stopped());
  EXPECT_FALSE(*choices[1].Flush(/*aborted=*/true));
  EXPECT_FALSE(choices[1].stopped());
}

}  // namespace
}  // namespace quire
