#include "worker/engine/request_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "scheduler/batch/serial_scheduler.h"
#include "tests/worker/engine/engine_fixture.h"

namespace quire {
namespace {

using testing::HasSubstr;

class RequestEngineTest : public testing::Test {
 protected:
  const ExecutorLimits limits_ = TestLimits(64, 4, 8, 32, 1);
  EngineDriver driver_{MakeTestEngine(SchedulerOptions(limits_)), {.limits = limits_}};
};

TEST_F(RequestEngineTest, RunsChoicesThatDoNotDifferInTheirPrompt) {
  EngineRequest request = MakeRequest(1, {1, 2, 3, 4, 5}, 6);
  request.n = 3;
  ASSERT_TRUE(driver_.Submit(request).ok());
  driver_.RunUntilIdle();
  for (uint32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(driver_.stream(1, choice).tokens, ExpectedTokens({1, 2, 3, 4, 5}, 6));
    EXPECT_EQ(driver_.stream(1, choice).finish.reason, FinishReason::kLength);
  }
  // What choices share among themselves does not come from the prefix cache.
  EXPECT_EQ(driver_.stream(1, 1).finish.usage.cached_tokens, 0u);
  ASSERT_TRUE(driver_.Submit(MakeRequest(2, {1, 2, 3, 4, 5}, 6)).ok());
  driver_.RunUntilIdle();
  EXPECT_EQ(driver_.stream(2).finish.usage.cached_tokens, 4u);
}

TEST_F(RequestEngineTest, AQueueTimeoutDoesNotEndARequestThatHasBegun) {
  EngineRequest request = MakeRequest(1, {1, 2, 3, 4, 5}, 6);
  request.n = 2;
  request.queue_deadline = 10;
  ASSERT_TRUE(driver_.Submit(request).ok());
  ASSERT_TRUE(driver_.Step());  // choice 0 begins; choice 1 waits for its prompt
  driver_.now = 20;
  driver_.RunUntilIdle();
  for (uint32_t choice = 0; choice < 2; ++choice) {
    EXPECT_EQ(driver_.stream(1, choice).finish.reason, FinishReason::kLength);
  }
}

TEST_F(RequestEngineTest, ContinuesFromEmittedTokens) {
  const std::vector<TokenId> whole = ExpectedTokens({9, 8, 7}, 10);
  for (uint32_t cut = 0; cut <= 10; ++cut) {
    EngineRequest request = MakeRequest(cut, {9, 8, 7}, 10);
    request.emitted = {{whole.begin(), whole.begin() + cut}};
    ASSERT_TRUE(driver_.Submit(request).ok());
    driver_.RunUntilIdle();
    EXPECT_EQ(driver_.stream(cut).tokens, whole);
    EXPECT_TRUE(driver_.stream(cut).finished);
    EXPECT_EQ(driver_.stream(cut).finish.usage.output_tokens, 10u);
  }
}

TEST_F(RequestEngineTest, AnEmittedStopTokenEndsTheChoiceAtOnce) {
  EngineRequest request = MakeRequest(1, {1}, 9);
  request.params.stop_token_ids = {77};
  request.emitted = {{5, 77}};
  ASSERT_TRUE(driver_.Submit(request).ok());
  EXPECT_FALSE(driver_.Step());
  EXPECT_EQ(driver_.stream(1).finish.reason, FinishReason::kStop);
  EXPECT_EQ(driver_.stream(1).finish.stop_token, 77u);
  // Nothing of it is left: the key may be used again.
  EXPECT_TRUE(driver_.Submit(MakeRequest(1, {1}, 1)).ok());
}

TEST_F(RequestEngineTest, ChoicesThatEndedAlreadyDoNotRun) {
  EngineRequest request = MakeRequest(1, {1, 2}, 3);
  request.n = 2;
  request.choice_finished = {true, false};
  ASSERT_TRUE(driver_.Submit(request).ok());
  driver_.RunUntilIdle();
  EXPECT_TRUE(driver_.stream(1, 0).tokens.empty());
  EXPECT_EQ(driver_.stream(1, 1).tokens.size(), 3u);
}

TEST_F(RequestEngineTest, CancelGivesEverythingBack) {
  EngineRequest request = MakeRequest(1, {1, 2, 3, 4, 5, 6, 7, 8}, 100);
  request.n = 4;
  ASSERT_TRUE(driver_.Submit(request).ok());
  for (int i = 0; i < 5; ++i) driver_.Step();
  driver_.Cancel(1);
  driver_.RunUntilIdle();
  for (uint32_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ(driver_.stream(1, choice).finish.status.code(), absl::StatusCode::kCancelled);
  }
  const EngineLoad load = driver_.engine().load();
  EXPECT_EQ(load.running + load.waiting, 0u);
  EXPECT_EQ(load.blocks_free + load.blocks_cached, load.blocks_total);
}

TEST_F(RequestEngineTest, AStopIndexCountsOnlyWhatMatters) {
  ASSERT_TRUE(driver_.Submit(MakeRequest(1, {1}, 100)).ok());
  for (int i = 0; i < 9; ++i) driver_.Step();
  driver_.engine().Cancel({0, 1}, 0, 4, 0);
  driver_.RunUntilIdle();
  EXPECT_EQ(driver_.stream(1).finish.usage.output_tokens, 4u);
}

TEST_F(RequestEngineTest, SaysWhatIsWrong) {
  EXPECT_THAT(driver_.Submit(MakeRequest(1, {}, 1)).message(), HasSubstr("prompt is empty"));
  EXPECT_THAT(driver_.Submit(MakeRequest(1, {kTestVocabulary}, 1)).message(),
              HasSubstr("prompt[0] is 50000; the vocabulary has 50000"));
  EXPECT_THAT(driver_.Submit(MakeRequest(1, {1, 2}, 511)).message(),
              HasSubstr("exceed the context of 512"));
  const absl::Status too_large = driver_.Submit(MakeRequest(1, {1}, 300));
  EXPECT_EQ(too_large.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(too_large.message(),
              HasSubstr("needs 76 KV blocks of 4 tokens and the worker has 64"));
  ASSERT_TRUE(driver_.Submit(MakeRequest(1, {1}, 1)).ok());
  EXPECT_EQ(driver_.Submit(MakeRequest(1, {1}, 1)).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(RequestEngineTest, ARefusedRequestLeavesNothing) {
  // Its first choice has ended already; its second does not fit.
  EngineRequest request = MakeRequest(1, {1, 2}, 300);
  request.n = 2;
  request.params.stop_token_ids = {9};
  request.emitted = {{9}};
  EXPECT_EQ(driver_.Submit(request).code(), absl::StatusCode::kFailedPrecondition);
  driver_.RunUntilIdle();
  EXPECT_FALSE(driver_.stream(1, 0).finished);
  EXPECT_EQ(driver_.engine().load().waiting, 0u);
  EXPECT_TRUE(driver_.Submit(MakeRequest(1, {1}, 1)).ok());
}

TEST_F(RequestEngineTest, IdsThatTheSamplerWritesToAreInTheVocabulary) {
  EngineRequest biased = MakeRequest(1, {1}, 1);
  biased.params.logit_bias = {{3, 1.0f}, {kTestVocabulary, 1.0f}};
  EXPECT_THAT(driver_.Submit(biased).message(), HasSubstr("logit_bias[1] is 50000"));
  EngineRequest eos = MakeRequest(1, {1}, 1);
  eos.params.eos_token_ids = {~0u};
  EXPECT_THAT(driver_.Submit(eos).message(), HasSubstr("eos_token_ids[0]"));
}

TEST(RequestEngineFaultTest, OneBadRowFailsItsRequestAlone) {
  const ExecutorLimits limits = TestLimits(64, 4, 8, 32, 1);
  FakeExecutor::Options options{.limits = limits};
  options.inject_fault = [](SlotId slot, uint32_t position) {
    return slot == 1 && position == 6 ? NumericFault::kMlp : NumericFault::kNone;
  };
  EngineDriver driver(MakeTestEngine(SchedulerOptions(limits)), options);
  for (uint64_t id = 0; id < 3; ++id) {
    ASSERT_TRUE(driver.Submit(MakeRequest(id, {TokenId(id), 1, 2}, 8)).ok());
  }
  driver.RunUntilIdle();
  EXPECT_EQ(driver.stream(0).tokens, ExpectedTokens({0, 1, 2}, 8));
  EXPECT_EQ(driver.stream(2).tokens, ExpectedTokens({2, 1, 2}, 8));
  EXPECT_EQ(driver.stream(1).finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(driver.stream(1).finish.status.message(), HasSubstr("the MLP"));
  EXPECT_EQ(driver.stream(1).tokens.size(), 4u);
}

TEST(RequestEngineBaselineTest, TheSameRequestsOneAtATime) {
  ExecutorLimits limits = TestLimits(0, 0, 1, kTestContext, 1);
  EngineDriver driver(
      std::make_unique<RequestEngine>(RequestEngine::Options{kTestContext, kTestVocabulary},
                                      std::make_unique<SerialScheduler>(10)),
      {.limits = limits});
  for (uint64_t id = 0; id < 3; ++id) {
    EngineRequest request = MakeRequest(id, {TokenId(id), 1, 2}, 8);
    request.n = 2;
    ASSERT_TRUE(driver.Submit(request).ok());
  }
  driver.RunUntilIdle();
  for (uint64_t id = 0; id < 3; ++id) {
    EXPECT_EQ(driver.stream(id).tokens, ExpectedTokens({TokenId(id), 1, 2}, 8));
    EXPECT_EQ(driver.stream(id, 1).tokens, driver.stream(id).tokens);
    EXPECT_EQ(driver.stream(id).finish.usage.kv_used_bytes, 20u);
  }
}

}  // namespace
}  // namespace quire
