// Measures what the engine costs besides the device: scheduler, engine and loop over the fake
// executor, whose steps take next to no time. Prints one JSON document (bench_support.h).
//
//   engine_loop_bench [--repeats 5] [--steps 100000] [targets]
//
// loop      steps a second of EngineLoop, on its own thread, with one sequence running
// planning  microseconds that Plan, Settle and TakeOutput take a step with 256 sequences running,
// and
//           with them those of a step in which one ends and another begins

#include <cstdint>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/bench_support.h"
#include "common/mutex.h"
#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/check.h"
#include "worker/device/fake/fake_executor.h"
#include "worker/engine/engine_loop.h"
#include "worker/engine/request_engine.h"

namespace quire {
namespace {

constexpr uint32_t kVocabulary = 32'000;
constexpr uint32_t kBlockSize = 16;
constexpr uint32_t kManySequences = 256;

ExecutorLimits Limits(uint32_t num_slots, uint32_t context_length) {
  ExecutorLimits limits;
  limits.num_slots = num_slots;
  limits.max_num_batched_tokens = 512;
  limits.context_length = context_length;
  limits.vocabulary_size = kVocabulary;
  limits.block_size = kBlockSize;
  limits.num_blocks = num_slots * (context_length / kBlockSize + 1);
  limits.kv_bytes_per_token = 1;
  limits.max_steps_in_flight = 1;
  return limits;
}

FakeExecutor::Options FakeDevice(const ExecutorLimits& limits) {
  FakeExecutor::Options options;
  options.limits = limits;
  options.reads_whole_context = false;
  return options;
}

std::unique_ptr<Engine> MakeEngine(const ExecutorLimits& limits) {
  BatchScheduler::Options options;
  options.kv.num_blocks = limits.num_blocks;
  options.kv.block_size = limits.block_size;
  options.max_num_seqs = limits.num_slots;
  options.max_num_batched_tokens = limits.max_num_batched_tokens;
  options.max_queue = 4 * kManySequences;
  options.kv_bytes_per_token = limits.kv_bytes_per_token;
  return std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(options));
}

// Greedy: the device is not to sample for its time to be small.
EngineRequest MakeRequest(uint64_t id, uint32_t num_prompt_tokens, uint32_t max_new_tokens) {
  EngineRequest request;
  request.key = {0, id};
  for (uint32_t i = 0; i < num_prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>((id * 7919 + i * 31) % kVocabulary));
  }
  request.max_new_tokens = max_new_tokens;
  request.params.temperature = 0;
  return request;
}

// Tells the time of the first token and of the finish.
class FinishWaiter final : public EngineListener {
 public:
  void OnOutput(EngineOutput& output) override {
    if (num_outputs_++ == 0) since_first_ = Stopwatch();
    if (output.finishes.empty()) return;
    MutexLock lock(mutex_);
    rate_ = static_cast<double>(num_outputs_ - 1) / since_first_.Seconds();
    finished_ = true;
    wake_.NotifyOne();
  }
  void OnRejected(RequestKey, uint32_t, const absl::Status&) override { QUIRE_CHECK(false); }
  void OnLoad(const EngineLoad&) override {}
  void OnFatal(const absl::Status&) override { QUIRE_CHECK(false); }

  // Steps a second between the two.
  double Wait() {
    MutexLock lock(mutex_);
    while (!finished_) wake_.Wait(mutex_);
    return rate_;
  }

 private:
  uint64_t num_outputs_ = 0;  // of the loop's thread, as since_first_
  Stopwatch since_first_;
  Mutex mutex_;
  CondVar wake_;
  bool finished_ QUIRE_GUARDED_BY(mutex_) = false;
  double rate_ QUIRE_GUARDED_BY(mutex_) = 0;
};

double LoopStepsPerSecond(uint32_t num_steps) {
  const ExecutorLimits limits = Limits(1, num_steps + 2 * kBlockSize);
  FinishWaiter waiter;
  EngineLoop loop(MakeEngine(limits), std::make_unique<FakeExecutor>(FakeDevice(limits)), &waiter,
                  1);
  loop.Start();
  QUIRE_CHECK(loop.PostSubmit(MakeRequest(0, kBlockSize, num_steps)).ok());
  return waiter.Wait();
}

// Microseconds a step of Plan, Settle and TakeOutput. With `turnover` a sequence ends and another
// begins in most steps; without, all run throughout.
double PlanningMicros(bool turnover) {
  constexpr uint32_t kSteps = 512;
  const ExecutorLimits limits = Limits(kManySequences, 2048);
  const std::unique_ptr<Engine> engine = MakeEngine(limits);
  FakeExecutor executor(FakeDevice(limits));
  uint64_t next_request = 0;
  const auto submit = [&](uint32_t max_new_tokens) {
    QUIRE_CHECK(engine->Submit(MakeRequest(next_request++, 64, max_new_tokens), 0).ok());
  };
  for (uint32_t i = 0; i < kManySequences; ++i) {
    submit(turnover ? kManySequences + i : 2 * kSteps);
  }
  StepPlan plan;
  StepResult result;
  EngineOutput output;
  double seconds = 0;
  uint32_t steps = 0;
  while (steps < kSteps) {
    const Stopwatch planning;
    QUIRE_CHECK(engine->Plan(0, &plan));
    double taken = planning.Seconds();
    QUIRE_CHECK(executor.Launch(plan).ok() && executor.Collect(&result).ok());
    const Stopwatch settling;
    engine->Settle(result, 0);
    engine->TakeOutput(&output);
    taken += settling.Seconds();
    for (size_t i = 0; i < output.finishes.size(); ++i) submit(kManySequences);
    if (plan.runs.size() + 1 < kManySequences) continue;  // the prompts are still coming in
    seconds += taken;
    ++steps;
  }
  return seconds / kSteps * 1e6;
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the engine and its loop over a device that takes no time.");
  int repeats = 5;
  uint32_t num_steps = 100'000;
  double min_steps_per_second = 0;
  double max_planning_us = 0;
  app.add_option("--repeats", repeats, "Samples of a figure")->check(CLI::Range(1, 100));
  app.add_option("--steps", num_steps, "Steps of a sample of the loop")
      ->check(CLI::Range(100, 10'000'000));
  app.add_option("--min-steps-per-second", min_steps_per_second, "Target");
  app.add_option("--max-planning-us", max_planning_us, "Target, microseconds");
  CLI11_PARSE(app, argc, argv);

  BenchReport report("engine_loop");
  report.Set("steps", num_steps);
  report.Set("sequences", kManySequences);
  std::vector<double> rates, steady, turnover;
  for (int i = 0; i < repeats; ++i) {
    rates.push_back(LoopStepsPerSecond(num_steps));
    steady.push_back(PlanningMicros(false));
    turnover.push_back(PlanningMicros(true));
  }
  const auto at_most = [](double value) { return value > 0 ? AtMost(value) : Target{}; };
  report.Add("loop, 1 running", "steps/s", rates,
             min_steps_per_second > 0 ? AtLeast(min_steps_per_second) : Target{});
  report.Add("planning, 256 running", "us/step", steady, at_most(max_planning_us));
  report.Add("planning, one ends a step", "us/step", turnover, at_most(max_planning_us));
  std::cout << report.document().dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
