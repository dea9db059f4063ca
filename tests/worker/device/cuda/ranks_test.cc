// Tensor parallelism over NCCL. A group of 1, 2 or 4 GPUs has the bits of one GPU without a group:
// random requests in random company, logits and tokens compared bitwise. A rank that is lost ends
// the group at once. With fewer GPUs than ranks a test is skipped and says so; a group of one runs
// the whole path on any.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/source_tree.h"
#include "tests/worker/device/cuda/cuda_under_test.h"
#include "tests/worker/device/exactness/engine_schedule.h"
#include "tests/worker/device/exactness/engine_subject.h"
#include "tests/worker/device/exactness/test_models.h"
#include "worker/device/cuda/cuda_ranks.h"
#include "worker/device/cuda/device_info.h"
#include "worker/device/fake/lost_device.h"
#include "worker/model/model_config.h"

namespace quire {
namespace {

constexpr uint64_t kDefaultSchedules = 24;

// Empty: there are as many GPUs.
std::string WhyFewer(uint32_t size) {
  const auto device = cuda::FindDevice(static_cast<int>(size) - 1);
  return device.ok() ? std::string() : std::string(device.status().message());
}

struct RanksSubject {
  std::string name;
  std::function<std::shared_ptr<const Weights>()> load;
  uint32_t context_length = 0;
  SubjectOptions requests;

  friend void PrintTo(const RanksSubject& subject, std::ostream* out) { *out << subject.name; }
};

std::vector<RanksSubject> Subjects() {
  const SubjectOptions small = {
      .groups = {{.num_requests = 24, .max_shared = 70, .max_own = 40},
                 {.num_requests = 3, .min_shared = 200, .max_shared = 350, .max_own = 60}},
      .num_follow_ups = 4,
      .with_stop_tokens = true};
  std::vector<RanksSubject> subjects;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const TestModel& model : ShardableModels()) {
      const ModelConfig config = model.config;
      subjects.push_back({model.name + "_" + std::string(DTypeName(dtype)),
                          [config, dtype] { return RandomWeights(config, dtype); },
                          config.max_position_embeddings, small});
    }
  }
  SubjectOptions large = small;  // a row of logits is half a megabyte
  large.max_new_tokens = 20;
  large.max_prompt_with_logits = 40;
  subjects.push_back({"llama_1b_shape_bfloat16",
                      [] {
                        const std::string folder = SourcePath("models/shapes/llama-3.2-1b");
                        const auto description = LoadModelDescription(folder);
                        LoadOptions options;
                        options.format = LoadFormat::kDummy;
                        options.dtype = DType::kBF16;
                        options.num_threads = 16;
                        return *Weights::Load(folder, description->config, options);
                      },
                      512, large});
  return subjects;
}

class CudaRanksTest : public testing::TestWithParam<std::tuple<RanksSubject, uint32_t>> {};

TEST_P(CudaRanksTest, AGroupHasTheBitsOfOneGpu) {
  const auto& [tested, size] = GetParam();
  if (const std::string why = WhyFewer(size); !why.empty()) GTEST_SKIP() << why;
  const auto weights = tested.load();
  CudaExecutorOptions options;
  options.context_length = tested.context_length;
  options.num_slots = 1;
  options.max_num_batched_tokens = 1;
  options.num_blocks = options.context_length / options.block_size;
  options.use_graphs = false;
  const auto alone = MakeCudaUnderTest(options, *weights);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const EngineSubject subject(tested.requests, **alone);

  options.num_slots = 48;
  options.max_num_batched_tokens = 768;
  options.num_blocks = 1024;
  options.use_graphs = true;
  const auto ranks = MakeCudaRanksUnderTest(options, size, *weights);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  ExactnessCounts counts;
  for (uint64_t seed = 0; seed < NumSchedules(kDefaultSchedules); ++seed) {
    SCOPED_TRACE(testing::Message() << "schedule " << seed);
    TestRandom random(seed);
    EngineSchedule schedule = RandomEngineSchedule(subject, (*ranks)->limits(), random);
    schedule.observes_logits = seed % 4 != 3;
    if (!RunEngineSchedule(subject, schedule, **ranks, random, &counts)) return;
  }
  std::printf(
      "summary: %s, %u ranks against one GPU without a group: %lu schedules of up to %u sequences "
      "at once, %lu preemptions, %lu rows of logits and %lu tokens compared, all bitwise equal\n",
      tested.name.c_str(), size, counts.schedules, counts.most_running, counts.preemptions,
      counts.rows, counts.tokens);
}

INSTANTIATE_TEST_SUITE_P(Subjects, CudaRanksTest,
                         testing::Combine(testing::ValuesIn(Subjects()),
                                          testing::Values(1u, 2u, 4u)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "_",
                                               std::get<1>(info.param), "_ranks");
                         });

TEST(CudaRanksLossTest, ALostRankEndsTheGroupWithinASecond) {
  static constexpr uint32_t kSize = 2;
  static constexpr uint64_t kLostAt = 5;
  if (const std::string why = WhyFewer(kSize); !why.empty()) GTEST_SKIP() << why;
  const auto weights = RandomWeights(ShardableModels().front().config, DType::kBF16);
  CudaExecutorOptions options;
  options.num_slots = 4;
  options.max_num_batched_tokens = 64;
  options.num_blocks = 64;
  const auto ranks = CreateCudaRanks(options, kSize, *weights, nullptr);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  (*ranks)->WrapRankForTest(1, [](std::unique_ptr<ModelExecutor> rank) {
    return std::make_unique<LostDevice>(std::move(rank), kLostAt);
  });

  StepPlan plan;
  plan.step = 1;
  SlotFill fill;
  fill.tokens = {1, 2, 3};
  fill.num_prompt_tokens = 3;
  fill.blocks = {0, 1};
  fill.params = TestParams(1);
  plan.filled.push_back(fill);
  plan.runs.push_back({.slot = 0, .num_tokens = 3, .samples = true});
  plan.num_tokens = 3;
  StepResult result;
  absl::Status status;
  auto started = std::chrono::steady_clock::now();
  while (status.ok() && plan.step < 20) {
    started = std::chrono::steady_clock::now();
    status = (*ranks)->Launch(plan);
    if (status.ok()) status = (*ranks)->Collect(&result);
    plan.Clear();
    ++plan.step;
    plan.runs.push_back({.slot = 0, .num_tokens = 1, .samples = true});
    plan.num_tokens = 1;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  EXPECT_EQ(status, absl::InternalError("rank 1: step 5: lost, as asked for a test"));
  EXPECT_EQ(plan.step, kLostAt + 1);
  std::printf("summary: a lost rank ended the group of %u after %.3f s\n", kSize, seconds.count());
  EXPECT_LT(seconds.count(), 1.0);
}

TEST(CudaRanksErrorTest, MoreRanksThanGpusIsToldByTheNumber) {
  if (const std::string why = WhyFewer(1); !why.empty()) GTEST_SKIP() << why;
  ModelConfig config = ShardableModels().front().config;
  config.num_heads = config.num_kv_heads = 64;
  config.hidden_size = config.intermediate_size = 1024;
  config.vocab_size = 1024;
  const auto weights = RandomWeights(config, DType::kBF16);
  CudaExecutorOptions options;
  const auto ranks = CreateCudaRanks(options, 64, *weights, nullptr);
  EXPECT_EQ(ranks.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(ranks.status().message()).find("tensor_parallel_size 64: there is no GPU"),
            std::string::npos)
      << ranks.status();
}

}  // namespace
}  // namespace quire
