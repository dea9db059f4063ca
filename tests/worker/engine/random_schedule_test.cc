// Random company, tiny pools, cancels and steps in flight: whatever the schedule, each request gets
// the tokens that it gets alone, and in the end every block is back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "tests/worker/engine/engine_fixture.h"

namespace quire {
namespace {

// QUIRE_SCHEDULES overrides the number of random schedules.
int NumSchedules() {
  const char* value = std::getenv("QUIRE_SCHEDULES");
  return value != nullptr ? std::atoi(value) : 400;
}

struct Submitted {
  std::vector<TokenId> prompt;
  uint32_t max_new_tokens = 0;
  uint32_t n = 1;
  bool cancelled = false;
};

class RandomSchedule {
 public:
  explicit RandomSchedule(uint32_t seed) : random_(seed) {
    const uint32_t block_size = 1 + Below(6);
    const uint32_t num_blocks = 60 / block_size + 2 + Below(40);
    const uint32_t num_slots = 1 + Below(6);
    limits_ = TestLimits(num_blocks, block_size, num_slots, num_slots + Below(24), 1 + Below(3));
    BatchScheduler::Options options = SchedulerOptions(limits_);
    options.kv.enable_prefix_caching = Below(4) != 0;
    driver_ = std::make_unique<EngineDriver>(MakeTestEngine(options),
                                             FakeExecutor::Options{.limits = limits_});
  }

  void Run() {
    for (uint64_t id = 0; id < 25; ++id) {
      Submit(id);
      for (uint32_t steps = Below(6); steps > 0; --steps) driver_->Step();
      if (Below(5) == 0) Cancel(Below(id + 1));
    }
    driver_->RunUntilIdle();
    Check();
  }
  uint64_t preemptions() const { return driver_->preemptions(); }
  uint64_t hits() const { return driver_->engine().load().prefix_hit_tokens; }

 private:
  uint32_t Below(uint32_t limit) { return random_() % limit; }

  void Submit(uint64_t id) {
    Submitted request;
    const uint32_t capacity = limits_.num_blocks * limits_.block_size;
    const uint32_t prompt = 1 + Below(std::min(capacity - 2, 40u));
    // Few distinct beginnings, so that prefixes are shared.
    const TokenId family = Below(3);
    for (uint32_t i = 0; i < prompt; ++i) request.prompt.push_back(family + i);
    if (Below(2) == 0) request.prompt.back() = 1000 + id;
    request.max_new_tokens = 1 + Below(std::min(capacity - prompt, 24u));
    request.n = Below(4) == 0 ? 2 + Below(2) : 1;

    EngineRequest engine_request = MakeRequest(id, request.prompt, request.max_new_tokens);
    engine_request.n = request.n;
    engine_request.priority = static_cast<int32_t>(Below(3)) - 1;
    if (Below(4) == 0) {  // as if it had begun elsewhere
      std::vector<TokenId> emitted = ExpectedTokens(request.prompt, request.max_new_tokens);
      emitted.resize(Below(request.max_new_tokens + 1));
      engine_request.emitted = {emitted};
    }
    ASSERT_TRUE(driver_->Submit(engine_request).ok());
    submitted_[id] = std::move(request);
  }

  void Cancel(uint64_t id) {
    driver_->Cancel(id);
    submitted_[id].cancelled = true;
  }

  void Check() {
    for (const auto& [id, request] : submitted_) {
      const std::vector<TokenId> expected = ExpectedTokens(request.prompt, request.max_new_tokens);
      for (uint32_t choice = 0; choice < request.n; ++choice) {
        const EngineDriver::Stream& stream = driver_->stream(id, choice);
        ASSERT_TRUE(stream.finished);
        ASSERT_LE(stream.tokens.size(), expected.size());
        ASSERT_TRUE(std::equal(stream.tokens.begin(), stream.tokens.end(), expected.begin()));
        if (!request.cancelled) {
          ASSERT_EQ(stream.tokens.size(), expected.size());
        }
        ASSERT_LT(stream.finish.usage.kv_max_unused_tokens, limits_.block_size);
      }
    }
    const EngineLoad load = driver_->engine().load();
    ASSERT_EQ(load.running + load.waiting, 0u);
    ASSERT_EQ(load.blocks_free + load.blocks_cached, load.blocks_total);
    ASSERT_EQ(load.kv_used_bytes, 0u);
  }

  std::mt19937 random_;
  ExecutorLimits limits_;
  std::unique_ptr<EngineDriver> driver_;
  std::map<uint64_t, Submitted> submitted_;
};

TEST(RandomScheduleTest, TokensDependOnTheRequestAlone) {
  uint64_t preemptions = 0;
  uint64_t hits = 0;
  for (int seed = 0; seed < NumSchedules(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomSchedule schedule(seed);
    schedule.Run();
    if (testing::Test::HasFatalFailure()) return;
    preemptions += schedule.preemptions();
    hits += schedule.hits();
  }
  std::printf(
      "summary: engine over a fake device: %d schedules, %lu preemptions, %lu tokens of prefix "
      "hits, "
      "every token as alone\n",
      NumSchedules(), preemptions, hits);
  // The schedules did what they are for.
  EXPECT_GT(preemptions, uint64_t(NumSchedules()) / 4);
  EXPECT_GT(hits, uint64_t(NumSchedules()) * 3);
}

}  // namespace
}  // namespace quire
