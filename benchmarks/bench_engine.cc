#include "benchmarks/bench_engine.h"

#include <cstdlib>
#include <iostream>
#include <utility>

#include "benchmarks/bench_support.h"
#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/check.h"
#include "worker/engine/request_engine.h"

namespace quire {
namespace {

// Deadlines and timings play no part here, so time stands still.
constexpr Micros kNow = 0;

// A device that is lost ends the benchmark.
void CheckDevice(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << "the device failed: " << status << "\n";
  std::exit(1);
}

}  // namespace

absl::StatusOr<BenchEngine> BenchEngine::Build(const EngineSettings& settings,
                                               const BuildProgress& progress) {
  absl::StatusOr<BuiltEngine> built = BuildEngine(settings, progress);
  if (!built.ok()) return built.status();
  BenchEngine engine(std::move(built->executor), settings.enable_prefix_caching);
  engine.description_ = std::move(built->description);
  return engine;
}

BenchEngine::BenchEngine(std::unique_ptr<ModelExecutor> executor, bool enable_prefix_caching)
    : executor_(std::move(executor)), is_taken_(executor_->limits().num_slots) {
  Restart(enable_prefix_caching);
}

void BenchEngine::Restart(bool enable_prefix_caching) {
  QUIRE_CHECK(launched_.empty());
  left_over_.clear();
  for (SlotId slot = 0; slot < is_taken_.size(); ++slot) {
    if (is_taken_[slot]) left_over_.push_back(slot);
  }
  const ExecutorLimits& limits = executor_->limits();
  BatchScheduler::Options scheduler;
  scheduler.kv.num_blocks = limits.num_blocks;
  scheduler.kv.block_size = limits.block_size;
  scheduler.kv.enable_prefix_caching = enable_prefix_caching;
  scheduler.max_num_seqs = limits.num_slots;
  scheduler.max_num_batched_tokens = limits.max_num_batched_tokens;
  scheduler.max_queue = 1u << 16;
  scheduler.kv_bytes_per_token = limits.kv_bytes_per_token;
  engine_ = std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(scheduler));
}

void BenchEngine::Submit(std::vector<TokenId> prompt, uint32_t max_new_tokens,
                         const SamplingParams& params) {
  EngineRequest request;
  request.key = {0, next_request_++};
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.params = params;
  request.params.seed = request.key.request;
  const absl::Status status = engine_->Submit(std::move(request), kNow);
  if (status.ok()) return;
  std::cerr << "the engine refused a request: " << status << "\n";
  std::exit(1);
}

void BenchEngine::Launch() {
  plan_.freed.insert(plan_.freed.begin(), left_over_.begin(), left_over_.end());
  left_over_.clear();
  for (const SlotId slot : plan_.freed) is_taken_[slot] = false;
  for (const SlotFill& fill : plan_.filled) is_taken_[fill.slot] = true;
  CheckDevice(executor_->Launch(plan_));
  LaunchedStep step;
  step.num_positions = plan_.num_tokens;
  if (roofline_.has_value()) step.roofline_seconds = roofline_->Step(plan_);
  launched_.push_back(step);
}

bool BenchEngine::Step() {
  while (launched_.size() < executor_->limits().max_steps_in_flight &&
         engine_->Plan(kNow, &plan_)) {
    Launch();
  }
  const bool has_step = !launched_.empty();
  if (has_step) {
    CheckDevice(executor_->Collect(&result_));
    settled_ = launched_.front();
    launched_.pop_front();
    engine_->Settle(result_, kNow);
  }
  engine_->TakeOutput(&output_);
  return has_step;
}

void BenchEngine::CancelAll() {
  for (; first_alive_ < next_request_; ++first_alive_) {
    engine_->Cancel({0, first_alive_}, std::nullopt, std::nullopt, kNow);
  }
  RunUntilIdle();
}

BenchRun BenchEngine::Run(std::vector<BenchRequest> requests) {
  struct Progress {
    double first = 0;
    double last = 0;
    uint32_t num_tokens = 0;
  };
  const uint64_t first_request = next_request_;
  std::vector<Progress> progress(requests.size());
  uint64_t expected_tokens = 0;
  for (const BenchRequest& request : requests) expected_tokens += request.max_new_tokens;
  BenchRun run;
  run.itl.reserve(expected_tokens);
  const Stopwatch watch;
  for (BenchRequest& request : requests) {
    Submit(std::move(request.prompt), request.max_new_tokens, Greedy());
  }
  while (Step()) {
    const double now = watch.Seconds();
    run.roofline += settled_.roofline_seconds;
    if (run.num_tokens == 0) run.roofline_first_token = run.roofline;
    for (const EngineOutput::Entry& entry : output_.entries) {
      Progress& request = progress[entry.key.request - first_request];
      if (request.num_tokens == 0) {
        request.first = now;
        run.ttft.push_back(now);
      } else {
        run.itl.push_back(now - request.last);
      }
      request.last = now;
      request.num_tokens += entry.num_tokens;
    }
    if (run.num_tokens == 0 && !output_.tokens.empty()) run.first_token = now;
    run.num_tokens += output_.tokens.size();
  }
  run.seconds = watch.Seconds();
  QUIRE_CHECK(run.num_tokens == expected_tokens);
  for (const Progress& request : progress) {
    if (request.num_tokens < 2) continue;
    run.tpot.push_back((request.last - request.first) / (request.num_tokens - 1));
  }
  return run;
}

std::vector<TokenId> RandomPrompts::Next(uint32_t num_tokens) {
  std::vector<TokenId> prompt(num_tokens);
  for (TokenId& token : prompt) token = ids_(random_);
  return prompt;
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

}  // namespace quire
