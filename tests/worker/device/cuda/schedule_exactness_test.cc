// E1, E2 and E4 on the GPU, through the whole engine: what ../cpu/schedule_exactness_test.cc says,
// with two steps in flight, graphs on and off, numbers of sequences across the graphs' sizes, and
// prompts of several segments of attention. Expected is what the same device gives each request
// alone, one position a step, without graphs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/source_tree.h"
#include "tests/worker/device/cuda/cuda_under_test.h"
#include "tests/worker/device/exactness/engine_schedule.h"
#include "tests/worker/device/exactness/engine_subject.h"
#include "tests/worker/device/exactness/same_bits.h"
#include "tests/worker/device/exactness/test_models.h"
#include "worker/device/cuda/device_info.h"
#include "worker/model/model_config.h"

namespace quire {
namespace {

constexpr int kMostFailures = 3;  // schedules, after which a subject is left

struct GpuSubject {
  std::string name;
  std::function<std::shared_ptr<const Weights>()> load;
  SubjectOptions requests;
  uint32_t context_length = 0;
  uint64_t num_schedules = 0;  // by default
  uint32_t num_slots = 48;
  uint32_t least_running = 16;  // what some step must go beyond

  friend void PrintTo(const GpuSubject& subject, std::ostream* out) { *out << subject.name; }
};

std::shared_ptr<const Weights> LoadFolder(const std::string& folder, LoadFormat format) {
  const auto description = LoadModelDescription(SourcePath(folder));
  EXPECT_TRUE(description.ok()) << description.status();
  if (!description.ok()) return nullptr;
  LoadOptions options;
  options.format = format;
  options.dtype = DType::kBF16;
  options.num_threads = std::max(1u, std::thread::hardware_concurrency());
  const auto weights = Weights::Load(SourcePath(folder), description->config, options);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return weights.ok() ? *weights : nullptr;
}

// The GPU's products need sizes in multiples of 16.
ModelConfig ForGpu(ModelConfig config) {
  config.hidden_size = (config.hidden_size + 15) / 16 * 16;
  return config;
}

std::vector<GpuSubject> Subjects() {
  std::vector<GpuSubject> subjects;
  const SubjectOptions small = {
      .groups = {{.num_requests = 24, .max_shared = 70, .max_own = 40},
                 {.num_requests = 3, .min_shared = 200, .max_shared = 350, .max_own = 60}},
      .num_follow_ups = 4,
      .with_stop_tokens = true};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const TestModel& model : TestModels()) {
      const ModelConfig config = ForGpu(model.config);
      subjects.push_back({.name = model.name + "_" + std::string(DTypeName(dtype)),
                          .load = [config, dtype] { return RandomWeights(config, dtype); },
                          .requests = small,
                          .context_length = config.max_position_embeddings,
                          .num_schedules = 25});
    }
  }
  // So many sequences at once that the largest graph is replayed.
  SubjectOptions many = small;
  many.groups.front() = {.num_requests = 400, .max_shared = 40, .max_own = 20};
  const ModelConfig config = ForGpu(TestModels().front().config);
  subjects.push_back({.name = "many_sequences_bfloat16",
                      .load = [config] { return RandomWeights(config, DType::kBF16); },
                      .requests = many,
                      .context_length = config.max_position_embeddings,
                      .num_schedules = 24,
                      .num_slots = 320,
                      .least_running = 224});
  SubjectOptions tiny = small;
  tiny.groups = {{.num_requests = 30, .max_shared = 70, .max_own = 40},
                 {.num_requests = 6, .min_shared = 200, .max_shared = 600, .max_own = 300}};
  tiny.num_follow_ups = 6;
  subjects.push_back(
      {.name = "quire_tiny_bfloat16",
       .load = [] { return LoadFolder("models/quire-tiny", LoadFormat::kSafetensors); },
       .requests = tiny,
       .context_length = 1024,
       .num_schedules = 200});
  // A row of logits is half a megabyte.
  SubjectOptions large = tiny;
  large.groups.back() = {.num_requests = 4, .min_shared = 200, .max_shared = 450, .max_own = 150};
  large.max_new_tokens = 20;
  large.max_prompt_with_logits = 40;
  subjects.push_back(
      {.name = "llama_1b_shape_bfloat16",
       .load = [] { return LoadFolder("models/shapes/llama-3.2-1b", LoadFormat::kDummy); },
       .requests = large,
       .context_length = 1024,
       .num_schedules = 200});
  return subjects;
}

std::unique_ptr<ExecutorUnderTest> MakeExecutor(const CudaExecutorOptions& options,
                                                const Weights& weights) {
  auto executor = MakeCudaUnderTest(options, weights);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return executor.ok() ? *std::move(executor) : nullptr;
}

class CudaScheduleExactnessTest : public testing::TestWithParam<GpuSubject> {
 protected:
  // Starting an executor takes seconds, so each serves many schedules.
  void SetUp() override {
    const absl::StatusOr<cuda::DeviceInfo> device = cuda::FindDevice(0);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = device->name;
    const std::shared_ptr<const Weights> weights = GetParam().load();
    ASSERT_NE(weights, nullptr);

    CudaExecutorOptions options;
    options.context_length = GetParam().context_length;
    options.num_slots = 1;
    options.max_num_batched_tokens = 1;
    options.num_blocks = options.context_length / options.block_size;
    options.use_graphs = false;
    const auto alone = MakeExecutor(options, *weights);
    ASSERT_NE(alone, nullptr);
    subject_ = std::make_unique<EngineSubject>(GetParam().requests, *alone);

    options.num_slots = GetParam().num_slots;
    options.max_num_batched_tokens = 768;
    for (const auto& [block_size, use_graphs] :
         {std::pair(16u, true), std::pair(32u, true), std::pair(32u, false)}) {
      options.block_size = block_size;
      options.num_blocks = 16384 / block_size;
      options.use_graphs = use_graphs;
      executors_.push_back(MakeExecutor(options, *weights));
      ASSERT_NE(executors_.back(), nullptr);
    }
  }

  // Schedules [first, end), until too many have failed.
  ExactnessCounts RunSchedules(uint64_t first, uint64_t end, bool observes_logits) {
    ExactnessCounts counts;
    int failures = 0;
    for (uint64_t seed = first; seed < end && failures < kMostFailures; ++seed) {
      SCOPED_TRACE(testing::Message() << "schedule " << seed);
      ExecutorUnderTest& executor = *executors_[seed % executors_.size()];
      TestRandom random(seed);
      EngineSchedule schedule = RandomEngineSchedule(*subject_, executor.limits(), random);
      schedule.observes_logits = observes_logits;
      if (!RunEngineSchedule(*subject_, schedule, executor, random, &counts)) ++failures;
    }
    return counts;
  }

  // Plans that no scheduler of ours makes: rows, slots and blocks in random order, chunks of any
  // length amid decoding.
  void RunWildPlans() {
    std::vector<TestSequence> alone;
    std::vector<TestSequence> requests;
    for (uint32_t i = 0; i < subject_->num_requests(); ++i) {
      alone.push_back(subject_->alone(i, 0));
      TestSequence& request = requests.emplace_back();
      request.prompt = alone.back().prompt;
      request.num_new_tokens = alone.back().num_new_tokens;
      request.params = alone.back().params;
    }
    for (uint64_t seed = 0; seed < 6; ++seed) {
      SCOPED_TRACE(testing::Message() << "wild plans " << seed);
      const WildSchedule schedule = {.seed = seed,
                                     .max_running = 2 + static_cast<uint32_t>(seed) * 7 % 15,
                                     .max_chunk = seed % 2 == 0 ? 400u : 19u,
                                     .preempt_chance = 0.01};
      std::vector<TestSequence> sequences = requests;
      RunSequences(*executors_[seed % executors_.size()], schedule, sequences);
      ExpectSame(alone, sequences);
    }
  }

  std::string device_;
  std::unique_ptr<EngineSubject> subject_;
  std::vector<std::unique_ptr<ExecutorUnderTest>> executors_;
};

TEST_P(CudaScheduleExactnessTest, LogitsAndTokensDependOnTheRequestAlone) {
  const uint64_t num_schedules = NumSchedules(GetParam().num_schedules);
  RunWildPlans();
  const ExactnessCounts seen = RunSchedules(0, num_schedules, true);
  const ExactnessCounts overlapped =
      RunSchedules(num_schedules, num_schedules + num_schedules / 4, false);
  std::printf(
      "summary: exactness %s on %s: %lu schedules of up to %u sequences at once, %lu preemptions, "
      "%lu tokens of prefix hits, %lu of them generated, %lu rows of logits, %lu tokens and the "
      "log-probabilities of %lu compared; %lu schedules more with steps that overlap, %lu tokens "
      "and the log-probabilities of %lu; %s\n",
      GetParam().name.c_str(), device_.c_str(), seen.schedules, seen.most_running, seen.preemptions,
      seen.prefix_hit_tokens, seen.generated_hit_tokens, seen.rows, seen.tokens, seen.logprobs,
      overlapped.schedules, overlapped.tokens, overlapped.logprobs,
      HasFailure() ? "some differ" : "all bitwise equal");
  // The schedules did what they are for.
  EXPECT_GT(seen.preemptions, seen.schedules);
  EXPECT_GT(seen.prefix_hit_tokens, 10 * seen.schedules);
  EXPECT_GT(seen.generated_hit_tokens, 0u);
  EXPECT_GT(seen.most_running, GetParam().least_running);
}

INSTANTIATE_TEST_SUITE_P(Subjects, CudaScheduleExactnessTest, testing::ValuesIn(Subjects()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quire
