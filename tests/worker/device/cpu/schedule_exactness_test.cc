// E1, E2 and E4 through the whole engine: RequestEngine, BatchScheduler and CpuExecutor run random
// requests in random company, and every row of logits and every token is that of the request alone.
//
// What varies from schedule to schedule: who comes when and is cancelled, the token budget (chunks
// of prompts), slots, block size, a pool so small that sequences are preempted, shared prefixes,
// the prefix cache, choices that share a prompt, requests that begin with emitted tokens, threads
// and instruction set. A block is filled with NaN before a sequence gets it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <utility>

#include "tests/worker/device/cpu/cpu_under_test.h"
#include "tests/worker/device/exactness/engine_schedule.h"
#include "tests/worker/device/exactness/engine_subject.h"
#include "tests/worker/device/exactness/test_models.h"

namespace quire {
namespace {

constexpr uint32_t kMaxTokens = 140;  // of a request of SubjectOptions' default

EngineSubject MakeSubject(const SubjectOptions& options,
                          const std::shared_ptr<const Weights>& weights, uint32_t num_blocks) {
  const auto alone = MakeCpuUnderTest({.num_slots = 1,
                                       .max_num_batched_tokens = 1,
                                       .num_blocks = num_blocks,
                                       .isa = SupportedIsas().back()},
                                      weights);
  return EngineSubject(options, *alone);
}

CpuExecutorOptions RandomOptions(TestRandom& random) {
  CpuExecutorOptions options;
  options.block_size = 8u << Below(random, 3);
  options.num_slots = 1 + Below(random, 8);
  options.max_num_batched_tokens = options.num_slots + Below(random, 80);
  options.num_threads = static_cast<int>(1 + Below(random, 2));
  // The portable path comes first, and is slow: it has fewer turns.
  const std::vector<Isa> isas = SupportedIsas();
  options.isa =
      isas[Below(random, 20) == 0 ? 0 : std::min<size_t>(1 + Below(random, 3), isas.size() - 1)];
  const uint32_t largest = kMaxTokens / options.block_size + 1;
  options.num_blocks = largest + Below(random, largest);
  return options;
}

// A device that works ahead: the result of a step waits until the next one is launched too. The
// tokens that the host does not know by then are in the slots.
class TwoStepsInFlight final : public ExecutorUnderTest {
 public:
  explicit TwoStepsInFlight(std::unique_ptr<ExecutorUnderTest> cpu)
      : cpu_(std::move(cpu)), ahead_(*cpu_) {}

  void set_logits_observer(LogitsObserver observer) override {
    cpu_->set_logits_observer(std::move(observer));
  }
  void FillWithNan(BlockId block) override { cpu_->FillWithNan(block); }

 private:
  class Ahead final : public ModelExecutor {
   public:
    explicit Ahead(ExecutorUnderTest& cpu) : cpu_(cpu), limits_(cpu.limits()) {
      limits_.max_steps_in_flight = 2;
    }
    const ExecutorLimits& limits() const override { return limits_; }
    absl::Status Launch(const StepPlan& plan) override {
      cpu_.Launch(plan);
      cpu_.Collect(&results_.emplace_back());
      return absl::OkStatus();
    }
    absl::Status Collect(StepResult* result) override {
      *result = std::move(results_.front());
      results_.pop_front();
      return absl::OkStatus();
    }

   private:
    ExecutorUnderTest& cpu_;
    ExecutorLimits limits_;
    std::deque<StepResult> results_;
  };

  ModelExecutor& executor() override { return ahead_; }

  const std::unique_ptr<ExecutorUnderTest> cpu_;
  Ahead ahead_;
};

class ScheduleExactnessTest : public testing::TestWithParam<DType> {};

TEST_P(ScheduleExactnessTest, LogitsAndTokensDependOnTheRequestAlone) {
  ExactnessCounts counts;
  const uint64_t num_schedules = NumSchedules(QUIRE_DEFAULT_SCHEDULES);
  const std::vector<TestModel> models = TestModels();
  for (size_t model = 0; model < models.size(); ++model) {
    const auto weights = RandomWeights(models[model].config, GetParam());
    const EngineSubject subject = MakeSubject({}, weights, 16);
    for (uint64_t seed = model; seed < num_schedules; seed += models.size()) {
      SCOPED_TRACE(testing::Message() << models[model].name << ", schedule " << seed);
      TestRandom random(seed);
      EngineSchedule schedule;
      schedule.arrivals = RandomArrivals(subject, random);
      const CpuExecutorOptions options = RandomOptions(random);
      schedule.num_slots = options.num_slots;
      schedule.max_num_batched_tokens = options.max_num_batched_tokens;
      schedule.num_blocks = options.num_blocks;
      schedule.prefix_caching = Below(random, 5) != 0;
      const auto executor = MakeCpuUnderTest(options, weights);
      if (!RunEngineSchedule(subject, schedule, *executor, random, &counts)) return;
    }
  }
  std::string paths;
  for (const Isa isa : SupportedIsas()) {
    paths += (paths.empty() ? "" : ", ") + std::string(IsaName(isa));
  }
  std::printf(
      "summary: exactness %s on %s: %lu schedules, %lu preemptions, %lu tokens of prefix hits, "
      "%lu rows of logits and %lu tokens compared, all bitwise equal\n",
      std::string(DTypeName(GetParam())).c_str(), paths.c_str(), counts.schedules,
      counts.preemptions, counts.prefix_hit_tokens, counts.rows, counts.tokens);
  // The schedules did what they are for.
  EXPECT_GT(counts.preemptions, counts.schedules);
  EXPECT_GT(counts.prefix_hit_tokens, 10 * counts.schedules);
}

// As on a device that is planned ahead of its results: sequences end, stop and are cancelled with a
// step in flight that still runs them. Prompts that go on where an output ended find its blocks.
TEST_P(ScheduleExactnessTest, StepsInFlightChangeNothing) {
  ExactnessCounts counts;
  const SubjectOptions mix = {
      .groups = {{.num_requests = 14, .max_shared = 70, .max_own = 40},
                 {.num_requests = 2, .min_shared = 200, .max_shared = 350, .max_own = 60}},
      .num_follow_ups = 3,
      .with_stop_tokens = true};
  const std::vector<TestModel> models = TestModels();
  const uint64_t num_schedules =
      std::max<uint64_t>(NumSchedules(QUIRE_DEFAULT_SCHEDULES) / 4, 2 * models.size());
  for (size_t model = 0; model < models.size(); ++model) {
    const auto weights = RandomWeights(models[model].config, GetParam());
    const EngineSubject subject = MakeSubject(mix, weights, 32);
    TwoStepsInFlight executor(MakeCpuUnderTest(
        {.num_slots = 24, .max_num_batched_tokens = 256, .num_blocks = 256}, weights));
    for (uint64_t seed = model; seed < num_schedules; seed += models.size()) {
      SCOPED_TRACE(testing::Message() << models[model].name << ", schedule " << seed);
      TestRandom random(seed);
      const EngineSchedule schedule = RandomEngineSchedule(subject, executor.limits(), random);
      if (!RunEngineSchedule(subject, schedule, executor, random, &counts)) return;
    }
  }
  std::printf(
      "summary: exactness %s with two steps in flight: %lu schedules of up to %u sequences at "
      "once, %lu preemptions, %lu tokens of prefix hits, %lu of them generated, %lu rows of logits "
      "and %lu tokens compared, all bitwise equal\n",
      std::string(DTypeName(GetParam())).c_str(), counts.schedules, counts.most_running,
      counts.preemptions, counts.prefix_hit_tokens, counts.generated_hit_tokens, counts.rows,
      counts.tokens);
  EXPECT_GT(counts.preemptions, 0u);
  EXPECT_GT(counts.generated_hit_tokens, 0u);
}

INSTANTIATE_TEST_SUITE_P(DTypes, ScheduleExactnessTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace quire
