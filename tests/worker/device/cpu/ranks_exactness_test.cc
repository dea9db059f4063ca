// A tensor-parallel group has the bits of one rank: random requests in random company on 2 and 4
// ranks, every row of logits and every token compared with that of the request alone on an executor
// without ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/worker/device/cpu/cpu_under_test.h"
#include "tests/worker/device/exactness/engine_schedule.h"
#include "tests/worker/device/exactness/engine_subject.h"
#include "tests/worker/device/exactness/test_models.h"
#include "worker/device/cpu/cpu_ranks.h"

namespace quire {
namespace {

constexpr uint64_t kDefaultSchedules = 24;

class RanksExactnessTest : public testing::TestWithParam<DType> {};

TEST_P(RanksExactnessTest, AGroupOfAnySizeHasTheBitsOfOneRank) {
  ExactnessCounts counts;
  const uint64_t num_schedules = std::max<uint64_t>(NumSchedules(kDefaultSchedules) / 4, 2);
  for (const TestModel& model : ShardableModels()) {
    const auto weights = RandomWeights(model.config, GetParam());
    const auto alone =
        MakeCpuUnderTest({.num_slots = 1, .max_num_batched_tokens = 1, .num_blocks = 16}, weights);
    const EngineSubject subject({}, *alone);
    for (const uint32_t size : {2u, 4u}) {
      const auto ranks = MakeCpuRanksUnderTest(
          {.num_threads = 4, .num_slots = 8, .max_num_batched_tokens = 64, .num_blocks = 24}, size,
          weights);
      for (uint64_t seed = 0; seed < num_schedules; ++seed) {
        SCOPED_TRACE(testing::Message()
                     << model.name << ", " << size << " ranks, schedule " << seed);
        TestRandom random(seed);
        EngineSchedule schedule;
        schedule.arrivals = RandomArrivals(subject, random);
        schedule.num_slots = 2 + Below(random, 7);
        schedule.max_num_batched_tokens = 8 + Below(random, 57);
        schedule.num_blocks = 10 + Below(random, 15);
        if (!RunEngineSchedule(subject, schedule, *ranks, random, &counts)) return;
      }
    }
  }
  std::printf(
      "summary: 2 and 4 ranks against one, %s: %lu schedules, %lu preemptions, %lu rows of logits "
      "and %lu tokens compared, all bitwise equal\n",
      std::string(DTypeName(GetParam())).c_str(), counts.schedules, counts.preemptions, counts.rows,
      counts.tokens);
  EXPECT_GT(counts.rows, 100u * counts.schedules);
  EXPECT_GT(counts.preemptions, 0u);
}

INSTANTIATE_TEST_SUITE_P(DTypes, RanksExactnessTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

TEST(CpuRanksTest, SharesThePoolAndRefusesWhatCannotBeShared) {
  const auto weights = RandomWeights(ShardableModels().front().config, DType::kF32);
  const CpuExecutorOptions options = {
      .num_slots = 2, .max_num_batched_tokens = 16, .kv_cache_bytes = 1 << 20};
  const auto one = CpuExecutor::Create(options, weights);
  ASSERT_TRUE(one.ok()) << one.status();
  const auto four = CreateCpuRanks(options, 4, weights);
  ASSERT_TRUE(four.ok()) << four.status();
  EXPECT_EQ((*four)->limits().num_blocks, (*one)->limits().num_blocks);
  EXPECT_EQ((*four)->limits().kv_bytes_per_token, (*one)->limits().kv_bytes_per_token);
  // The weights a rank reads are its part.
  const auto& rank = static_cast<const CpuExecutor&>((*four)->rank(3));
  EXPECT_LT(rank.weight_bytes(), (*one)->weight_bytes() / 3);

  EXPECT_EQ(
      CreateCpuRanks(options, 3, weights).status(),
      absl::InvalidArgumentError("tensor_parallel_size 3: the model's num_attention_heads, 8, "
                                 "is not a multiple of 3"));
}

}  // namespace
}  // namespace quire
