#include "worker/engine/engine_loop.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "tests/fakes/gated_executor.h"
#include "tests/worker/engine/engine_fixture.h"

namespace quire {
namespace {

// Collects what the loop says; tests wait for finishes.
class Collector final : public EngineListener {
 public:
  void OnOutput(EngineOutput& output) override {
    MutexLock lock(mutex_);
    for (const EngineOutput::Entry& entry : output.entries) {
      for (uint32_t i = 0; i < entry.num_tokens; ++i) {
        tokens_[entry.key.request].push_back(output.tokens[entry.first_token + i]);
      }
    }
    for (const ChoiceFinish& finish : output.finishes) finishes_[finish.key.request] = finish;
    changed_.NotifyAll();
  }
  void OnRejected(RequestKey key, uint32_t attempt, const absl::Status& status) override {
    MutexLock lock(mutex_);
    rejected_[key.request] = status;
    changed_.NotifyAll();
  }
  void OnLoad(const EngineLoad& load) override {
    MutexLock lock(mutex_);
    loads_.push_back(load);
    changed_.NotifyAll();
  }
  void OnFatal(const absl::Status& status) override {
    MutexLock lock(mutex_);
    fatal_ = status;
    changed_.NotifyAll();
  }

  ChoiceFinish WaitForFinish(uint64_t request) {
    MutexLock lock(mutex_);
    while (!finishes_.contains(request)) changed_.Wait(mutex_);
    return finishes_[request];
  }
  absl::Status WaitForRejection(uint64_t request) {
    MutexLock lock(mutex_);
    while (!rejected_.contains(request)) changed_.Wait(mutex_);
    return rejected_[request];
  }
  EngineLoad WaitForIdleLoad() {
    MutexLock lock(mutex_);
    while (loads_.empty() || loads_.back().running + loads_.back().waiting > 0)
      changed_.Wait(mutex_);
    return loads_.back();
  }
  absl::Status WaitForFatal() {
    MutexLock lock(mutex_);
    while (fatal_.ok()) changed_.Wait(mutex_);
    return fatal_;
  }
  void WaitForLoad(uint32_t running, uint32_t waiting) {
    MutexLock lock(mutex_);
    while (loads_.empty() || loads_.back().running != running || loads_.back().waiting != waiting) {
      changed_.Wait(mutex_);
    }
  }
  void WaitForHeldBlocks(uint32_t running, uint32_t blocks) {
    MutexLock lock(mutex_);
    const auto held = [](const EngineLoad& load) {
      return load.blocks_total - load.blocks_free - load.blocks_cached;
    };
    while (loads_.empty() || loads_.back().running != running || held(loads_.back()) != blocks) {
      changed_.Wait(mutex_);
    }
  }
  void WaitForTokens(uint64_t request, size_t count) {
    MutexLock lock(mutex_);
    while (tokens_[request].size() < count) changed_.Wait(mutex_);
  }
  std::vector<TokenId> tokens(uint64_t request) {
    MutexLock lock(mutex_);
    return tokens_[request];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<uint64_t, std::vector<TokenId>> tokens_ QUIRE_GUARDED_BY(mutex_);
  std::map<uint64_t, ChoiceFinish> finishes_ QUIRE_GUARDED_BY(mutex_);
  std::map<uint64_t, absl::Status> rejected_ QUIRE_GUARDED_BY(mutex_);
  std::vector<EngineLoad> loads_ QUIRE_GUARDED_BY(mutex_);
  absl::Status fatal_ QUIRE_GUARDED_BY(mutex_);
};

class EngineLoopTest : public testing::Test {
 protected:
  EngineLoopTest() { loop_.Start(); }

  Collector collector_;
  const ExecutorLimits limits_ = TestLimits(256, 4, 16, 64, 2);
  EngineLoop loop_{MakeTestEngine(SchedulerOptions(limits_)),
                   std::make_unique<FakeExecutor>(FakeExecutor::Options{.limits = limits_}),
                   &collector_, 1000};
};

TEST_F(EngineLoopTest, ManyThreadsPostAndEachGetsItsTokens) {
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (uint64_t i = 0; i < 25; ++i) {
        const uint64_t id = thread * 100 + i;
        ASSERT_TRUE(loop_.PostSubmit(MakeRequest(id, {TokenId(id), 1, 2, 3}, 20)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t thread = 0; thread < 4; ++thread) {
    for (uint64_t i = 0; i < 25; ++i) {
      const uint64_t id = thread * 100 + i;
      collector_.WaitForFinish(id);
      EXPECT_EQ(collector_.tokens(id), ExpectedTokens({TokenId(id), 1, 2, 3}, 20));
    }
  }
  const EngineLoad load = collector_.WaitForIdleLoad();
  EXPECT_EQ(load.blocks_free + load.blocks_cached, load.blocks_total);
  EXPECT_GT(loop_.steps(), 0u);
}

TEST_F(EngineLoopTest, ReportsWhatTheEngineRefuses) {
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(1, {}, 5)).ok());
  EXPECT_EQ(collector_.WaitForRejection(1).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineLoopTest, AQueueTimeoutThatIsOverEndsARequestBeforeItRuns) {
  EngineRequest request = MakeRequest(1, {1}, 5);
  request.queue_deadline = 0;
  ASSERT_TRUE(loop_.PostSubmit(request).ok());
  EXPECT_EQ(collector_.WaitForFinish(1).status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(EngineLoopMailboxTest, IsBounded) {
  Collector collector;
  const ExecutorLimits limits = TestLimits(16, 4, 2, 8, 1);
  EngineLoop loop(MakeTestEngine(SchedulerOptions(limits)),
                  std::make_unique<FakeExecutor>(FakeExecutor::Options{.limits = limits}),
                  &collector, 2);
  EXPECT_TRUE(loop.PostSubmit(MakeRequest(1, {1}, 1)).ok());
  EXPECT_TRUE(loop.PostSubmit(MakeRequest(2, {1}, 1)).ok());
  EXPECT_EQ(loop.PostSubmit(MakeRequest(3, {1}, 1)).code(), absl::StatusCode::kResourceExhausted);
  loop.Start();
  collector.WaitForFinish(2);
  // What the loop has taken no longer counts.
  EXPECT_TRUE(loop.PostSubmit(MakeRequest(4, {1}, 1)).ok());
  collector.WaitForFinish(4);
}

// One slot, and steps that end when the test says so.
class GatedEngineLoopTest : public testing::Test {
 protected:
  GatedEngineLoopTest() { loop_.Start(); }
  ~GatedEngineLoopTest() override { gate_.Open(); }

  Collector collector_;
  StepGate gate_;
  const ExecutorLimits limits_ = TestLimits(128, 4, 1, 8, 1);
  EngineLoop loop_{
      MakeTestEngine(SchedulerOptions(limits_)),
      std::make_unique<GatedExecutor>(FakeExecutor::Options{.limits = limits_}, &gate_),
      &collector_, 2};
};

TEST_F(GatedEngineLoopTest, CancelEndsARunningRequest) {
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(1, {1}, 500)).ok());
  gate_.Allow(3);
  collector_.WaitForTokens(1, 3);
  loop_.PostCancel({0, 1}, std::nullopt, std::nullopt);
  gate_.Allow(1);  // one may have begun before it was heard
  const ChoiceFinish finish = collector_.WaitForFinish(1);
  EXPECT_EQ(finish.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(finish.usage.output_tokens, collector_.tokens(1).size());
  EXPECT_LE(finish.usage.output_tokens, 4u);
}

TEST_F(GatedEngineLoopTest, TellsOfEveryBeginningAndEnd) {
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(1, {1}, 5)).ok());
  gate_.Allow(1);
  collector_.WaitForLoad(1, 0);
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(2, {1}, 3)).ok());
  gate_.Allow(2);  // it may arrive in the middle of a step
  collector_.WaitForLoad(1, 1);
  gate_.Open();
  collector_.WaitForLoad(0, 0);
}

TEST_F(GatedEngineLoopTest, TellsOfOneThatTakesAnothersPlace) {
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(1, std::vector<TokenId>(20, 1), 5)).ok());
  gate_.Allow(3);  // its prompt runs in chunks of 8
  collector_.WaitForTokens(1, 1);
  loop_.PostCancel({0, 1}, std::nullopt, std::nullopt);
  ASSERT_TRUE(loop_.PostSubmit(MakeRequest(2, {1}, 500)).ok());
  gate_.Allow(2);  // one step may have begun before; none ends the second request
  collector_.WaitForHeldBlocks(/*running=*/1, /*blocks=*/1);
}

class BrokenExecutor final : public ModelExecutor {
 public:
  explicit BrokenExecutor(const ExecutorLimits& limits) : limits_(limits) {}
  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan&) override {
    return absl::InternalError("the device is gone");
  }
  absl::Status Collect(StepResult*) override { return absl::InternalError("the device is gone"); }

 private:
  const ExecutorLimits limits_;
};

TEST(EngineLoopFatalTest, ALostDeviceIsReported) {
  Collector collector;
  const ExecutorLimits limits = TestLimits(16, 4, 2, 8, 1);
  EngineLoop loop(MakeTestEngine(SchedulerOptions(limits)),
                  std::make_unique<BrokenExecutor>(limits), &collector, 2);
  loop.Start();
  ASSERT_TRUE(loop.PostSubmit(MakeRequest(1, {1}, 1)).ok());
  EXPECT_EQ(collector.WaitForFatal().message(), "the device is gone");
}

TEST(EngineLoopByHandTest, TheCallerIsItsThreadAndItsClock) {
  Collector collector;
  Micros now = 1'000;
  const ExecutorLimits limits = TestLimits(16, 4, 2, 8, 1);
  EngineLoop loop(MakeTestEngine(SchedulerOptions(limits)),
                  std::make_unique<FakeExecutor>(FakeExecutor::Options{.limits = limits}),
                  &collector, 2, [&now] { return now; });
  ASSERT_TRUE(loop.Begin() && loop.Complete());
  EXPECT_EQ(loop.steps(), 0u);
  ASSERT_TRUE(loop.PostSubmit(MakeRequest(1, {1}, 2)).ok());
  now = 5'000;
  ASSERT_TRUE(loop.Begin());
  EXPECT_EQ(loop.num_in_flight(), 1u);
  EXPECT_TRUE(collector.tokens(1).empty());
  now = 7'000;
  EXPECT_EQ(loop.SinceProgress(), 2'000);  // since work came to an idle engine
  ASSERT_TRUE(loop.Complete());
  EXPECT_EQ(collector.tokens(1).size(), 1u);
  EXPECT_EQ(loop.SinceProgress(), 0);
  ASSERT_TRUE(loop.Begin() && loop.Complete());
  EXPECT_EQ(collector.tokens(1), ExpectedTokens({1}, 2));
  // Nothing is left to do: it is idle, however long that takes.
  ASSERT_TRUE(loop.Begin() && loop.Complete());
  now = 90'000'000;
  EXPECT_EQ(loop.SinceProgress(), 0);
  EXPECT_EQ(loop.steps(), 2u);
}

}  // namespace
}  // namespace quire
