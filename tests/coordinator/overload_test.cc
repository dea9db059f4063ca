// More than the workers can take: who is refused, and when to come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc_status.h"
#include "coordinator/stream/work_pool.h"
#include "tests/coordinator/stream_fixture.h"

namespace quire {
namespace {

using testing::HasSubstr;

class OverloadTest : public RequestStreamTest {
 protected:
  // A refusal is remembered for longer than a test lasts.
  OverloadTest() : RequestStreamTest({.ask_micros = 60'000'000}) {}

  PreparedRequest Of(const std::string& tenant, uint32_t max_new_tokens) {
    PreparedRequest request = Prepared(max_new_tokens);
    request.tenant = tenant;
    return request;
  }
  // Waits until the worker says that so many sequences wait there.
  void WaitForWaiting(uint32_t count) {
    while (coordinator_.registry().Views()[0].load.waiting() != count) coordinator_.WaitForTick();
  }
  v1::GenerateRequest Ask(const std::string& tenant) {
    v1::GenerateRequest request;
    request.set_tenant(tenant);
    return request;
  }
};

TEST_F(OverloadTest, ATenantThatFillsItsPartOfTheQueueLeavesRoomForAnother) {
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 10, .step_micros = 50'000});
  Run running = Start("running", Of("greedy", 500));
  running.client->WaitForTokens(1);
  std::vector<Run> greedy;
  for (int i = 0; i < 8; ++i) {
    greedy.push_back(Start("g" + std::to_string(i), Of("greedy", 2)));
  }
  // Whether the coordinator has heard already that it holds more than its share or not.
  Run refused = Start("g8", Of("greedy", 2));
  const absl::Status status = refused.client->WaitForEnd();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GE(RetryDelayOf(status).value_or(0), RetrySchedule::kLeastMs);
  Run modest = Start("m", Of("modest", 2));
  WaitForWaiting(9);

  // Known without a prompt now.
  const absl::Status known = coordinator_.placer().CheckRoom(Ask("greedy"));
  EXPECT_TRUE(absl::IsResourceExhausted(known)) << known;
  EXPECT_TRUE(RetryDelayOf(known).has_value());
  EXPECT_TRUE(coordinator_.placer().CheckRoom(Ask("modest")).ok());
  v1::GenerateRequest other_engine = Ask("greedy");
  other_engine.set_engine(v1::BASELINE);
  EXPECT_TRUE(coordinator_.placer().CheckRoom(other_engine).ok());
  v1::GenerateRequest many = Ask("modest");
  many.mutable_sampling()->set_n(8);
  EXPECT_FALSE(coordinator_.placer().CheckRoom(many).ok());

  // The tenant that had least goes first, though it came last.
  running.stream->Cancel();
  EXPECT_TRUE(modest.client->WaitForEnd().ok());
  EXPECT_EQ(modest.client->tokens(), Expected(2));
  for (Run& run : greedy) EXPECT_TRUE(run.client->WaitForEnd().ok());
  ExpectIdle("a:1");
  while (!coordinator_.placer().CheckRoom(Ask("greedy")).ok()) coordinator_.WaitForTick();
}

TEST_F(OverloadTest, NothingIsAskedWhileNobodyWasRefused) {
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 1, .step_micros = 50'000});
  Run first = Start("r1", Prepared(500));
  Run second = Start("r2", Prepared(500));
  WaitForWaiting(1);
  EXPECT_TRUE(coordinator_.placer().CheckRoom({}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Start("r3", Prepared(5)).client->WaitForEnd()));
  EXPECT_TRUE(absl::IsResourceExhausted(coordinator_.placer().CheckRoom({})));
}

TEST_F(OverloadTest, TriesOfARequestThatMovesAreToldToNobody) {
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 1, .step_micros = 50'000});
  Run first = Start("r1", Prepared(500));
  Run second = Start("r2", Prepared(500));
  WaitForWaiting(1);
  const PreparedRequest request = Prepared(5);
  Placement placement;
  placement.model = "m";
  placement.prompt = &request.prompt;
  placement.max_new_tokens = 5;
  placement.is_move = true;
  const auto placed = coordinator_.placer().Place(placement);
  EXPECT_TRUE(absl::IsResourceExhausted(placed.status())) << placed.status();
  EXPECT_FALSE(RetryDelayOf(placed.status()).has_value());
  EXPECT_TRUE(coordinator_.placer().CheckRoom({}).ok());  // nobody was refused
}

TEST_F(OverloadTest, TheDelayFollowsFromTheRateAtWhichRequestsEnd) {
  StartWorker("a:1", {.max_num_seqs = 1, .max_queue = 4, .step_micros = 20'000});
  // Each takes 0.1 s at least.
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(Start("r" + std::to_string(i), Prepared(5)).client->WaitForEnd().ok());
  }
  std::vector<Run> runs;
  // When to come back, in microseconds: at the earliest, and at the latest.
  std::vector<int64_t> from, until;
  for (int i = 0; i < 9; ++i) {
    const int64_t before = SteadyMicros();
    runs.push_back(Start("s" + std::to_string(i), Prepared(500)));
    if (i < 5) continue;
    const absl::Status status = runs.back().client->WaitForEnd();
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
    const int64_t delay = int64_t{RetryDelayOf(status).value_or(0)} * 1000;
    EXPECT_GE(delay, 90'000);
    from.push_back(before + delay);
    until.push_back(SteadyMicros() + delay);
  }
  // Each is told a later place than the one before.
  for (size_t i = 1; i < from.size(); ++i) EXPECT_GT(until[i], from[i - 1] + 50'000);
}

TEST_F(OverloadTest, QueueTimeoutHoldsBeforeAWorkerIsChosen) {
  StartWorker("a:1");
  Run run = Attach("r");  // as if its prompt waited to be tokenized
  run.stream->LimitQueueing(1);
  const absl::Status status = run.client->WaitForEnd();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("queue_timeout_ms passed after"));
  EXPECT_THAT(status.message(), HasSubstr("coordinator's queue, 0 tokens out"));
  run.stream->Begin(Prepared(5));  // comes too late
  ExpectIdle("a:1");
}

TEST_F(OverloadTest, QueueTimeoutRunsFromTheArrival) {
  StartWorker("a:1");
  // It took a minute to be read.
  const auto stream = coordinator_.MakeStream("r", SteadyMicros() - 60'000'000);
  const auto client = std::make_shared<TestClient>(stream);
  ASSERT_TRUE(stream->Attach(client, {}, std::nullopt, "timeout_ms"));
  stream->LimitQueueing(59'000);
  const absl::Status status = client->WaitForEnd();
  EXPECT_THAT(status.message(), HasSubstr("queue_timeout_ms passed after 6"));
  ASSERT_EQ(coordinator_.records().size(), 1u);
  EXPECT_GE(coordinator_.records()[0].total, 60'000'000);
}

TEST_F(OverloadTest, QueueTimeoutHoldsWhileARequestWaitsForAnotherWorker) {
  StartWorker("a:1", {.max_num_seqs = 1, .step_micros = 20'000});
  Run running = Start("running", Prepared(500));
  running.client->WaitForTokens(1);
  Run queued = Attach("queued");
  queued.stream->LimitQueueing(300);
  queued.stream->Begin(Prepared(5));
  network_.Kill("a:1");
  const absl::Status status = queued.client->WaitForEnd();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  running.stream->Cancel();
}

TEST_F(OverloadTest, QueueTimeoutDoesNotEndWhatRuns) {
  StartWorker("a:1", {.step_micros = 2'000});
  Run run = Attach("r");
  run.stream->LimitQueueing(30'000);
  run.stream->Begin(Prepared(20));
  EXPECT_TRUE(run.client->WaitForEnd().ok());
  Run late = Attach("late");
  late.stream->Begin(Prepared(200));
  late.client->WaitForTokens(1);
  late.stream->LimitQueueing(1);
  EXPECT_TRUE(late.client->WaitForEnd().ok());
}

TEST(WorkPoolTest, WhoIsRefusedIsToldWhenToComeBack) {
  std::promise<void> open;
  std::promise<void> runs;
  WorkPool pool(1, 2);  // its thread uses both
  ASSERT_TRUE(pool.Post([&] {
    runs.set_value();
    open.get_future().wait();
  }));
  runs.get_future().wait();
  ASSERT_TRUE(pool.Post([] {}));
  ASSERT_TRUE(pool.Post([] {}));
  EXPECT_FALSE(pool.Post([] {}));
  EXPECT_GE(pool.RetryAfterMs(), RetrySchedule::kLeastMs);
  open.set_value();
}

// Work that notes its name in `order`.
std::function<void()> Noting(std::string* order, char name) {
  return [order, name] { order->push_back(name); };
}

TEST(WorkPoolTest, OwnersAreServedInTurn) {
  WorkPool pool(0, 100);
  std::string order;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pool.Post(Noting(&order, 'a'), {.owner = "a"}));
  ASSERT_TRUE(pool.Post(Noting(&order, 'b'), {.owner = "b"}));
  ASSERT_TRUE(pool.Post(Noting(&order, '-')));
  ASSERT_TRUE(pool.Post(Noting(&order, 'b'), {.owner = "b"}));
  while (pool.RunOne()) {
  }
  EXPECT_EQ(order, "ab-abaa");
}

TEST(WorkPoolTest, AnOwnerHasNoMoreThanItsShare) {
  WorkPool pool(0, WorkPool::Limits{.pieces = 4, .bytes = 100});
  std::string order;
  const auto post = [&](char owner, size_t num_bytes, double share) {
    return pool.Post(Noting(&order, owner), {std::string(1, owner), num_bytes, share});
  };
  EXPECT_TRUE(post('a', 0, 0.5));
  EXPECT_TRUE(post('a', 0, 0.5));
  EXPECT_FALSE(post('a', 0, 0.5)) << "half of the places";
  EXPECT_TRUE(post('a', 0, 1)) << "where nobody shares it has all";
  EXPECT_TRUE(post('b', 0, 0.5));
  EXPECT_FALSE(post('b', 0, 0.5)) << "the queue is full";
  while (pool.RunOne()) {
  }
  EXPECT_TRUE(post('a', 50, 0.5));
  EXPECT_FALSE(post('a', 1, 0.5)) << "half of the bytes";
  EXPECT_TRUE(post('b', 50, 0.5));
  EXPECT_FALSE(post('c', 1, 0.5)) << "no bytes are left";
  EXPECT_TRUE(pool.RunOne());
  EXPECT_TRUE(post('c', 1, 0.5)) << "work that has begun counts no more";
}

TEST(WorkPoolTest, WhatNeverRunsIsDroppedWhenThePoolStops) {
  WorkPool pool(0, 10);
  const auto held = std::make_shared<int>();
  ASSERT_TRUE(pool.Post([held] {}));
  EXPECT_EQ(held.use_count(), 2);
  pool.Stop();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace quire
