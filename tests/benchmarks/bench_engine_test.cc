#include "benchmarks/bench_engine.h"

#include <gtest/gtest.h>

#include <memory>

#include "worker/device/fake/fake_executor.h"

namespace quire {
namespace {

constexpr uint32_t kSlots = 4;

BenchEngine MakeEngine(uint32_t max_steps_in_flight) {
  FakeExecutor::Options options;
  options.limits.num_slots = kSlots;
  options.limits.max_num_batched_tokens = 32;
  options.limits.context_length = 64;
  options.limits.vocabulary_size = 100;
  options.limits.block_size = 4;
  options.limits.num_blocks = 64;
  options.limits.kv_bytes_per_token = 1;
  options.limits.max_steps_in_flight = max_steps_in_flight;
  return BenchEngine(std::make_unique<FakeExecutor>(options), /*enable_prefix_caching=*/true);
}

std::vector<BenchRequest> Requests(uint32_t count, uint64_t seed) {
  RandomPrompts prompts(100, seed);
  std::vector<BenchRequest> requests;
  for (uint32_t i = 0; i < count; ++i) requests.push_back({prompts.Next(12), 5});
  return requests;
}

class BenchEngineTest : public ::testing::TestWithParam<uint32_t> {};

TEST_P(BenchEngineTest, ARunHasATimeForEveryToken) {
  BenchEngine engine = MakeEngine(GetParam());
  const BenchRun run = engine.Run(Requests(10, 1));
  EXPECT_EQ(run.num_tokens, 50);
  EXPECT_EQ(run.ttft.size(), 10);
  EXPECT_EQ(run.tpot.size(), 10);
  EXPECT_EQ(run.itl.size(), 40);
  EXPECT_GT(run.first_token, 0);
  EXPECT_GE(run.seconds, run.first_token);
  EXPECT_EQ(run.roofline, 0);
}

TEST_P(BenchEngineTest, ANewBeginningFindsTheDeviceAsItWasAndAnEmptyCache) {
  BenchEngine engine = MakeEngine(GetParam());
  for (const bool enable_prefix_caching : {true, false, true}) {
    engine.Restart(enable_prefix_caching);
    engine.Run(Requests(10, 1));
    EXPECT_EQ(engine.load().prefix_hit_tokens, 0);
    engine.Run(Requests(10, 1));
    EXPECT_EQ(engine.load().prefix_hit_tokens > 0, enable_prefix_caching);
  }
}

TEST_P(BenchEngineTest, CancelledRequestsLeaveNothingBehind) {
  BenchEngine engine = MakeEngine(GetParam());
  for (BenchRequest& request : Requests(10, 1)) {
    engine.Submit(std::move(request.prompt), request.max_new_tokens, Greedy());
  }
  EXPECT_TRUE(engine.Step());
  engine.CancelAll();
  EXPECT_EQ(engine.load().running + engine.load().waiting, 0);
  engine.Restart(false);
  EXPECT_EQ(engine.Run(Requests(3, 2)).num_tokens, 15);
}

INSTANTIATE_TEST_SUITE_P(StepsInFlight, BenchEngineTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace quire
