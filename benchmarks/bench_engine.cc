#include "benchmarks/bench_engine.h"

#include <utility>

#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/check.h"
#include "worker/engine/request_engine.h"
#include "worker/model/model_config.h"

namespace quire {
namespace {

// Deadlines and timings play no part here, so time stands still.
constexpr Micros kNow = 0;

}  // namespace

absl::StatusOr<std::shared_ptr<const Weights>> BenchEngine::LoadWeights(const std::string& folder,
                                                                        bool dummy,
                                                                        const std::string& dtype,
                                                                        int num_threads) {
  absl::StatusOr<ModelDescription> description = LoadModelDescription(folder);
  if (!description.ok()) return description.status();
  LoadOptions load;
  load.format = dummy ? LoadFormat::kDummy : LoadFormat::kSafetensors;
  load.dtype = dtype == "fp32" ? DType::kF32 : DType::kBF16;
  load.num_threads = static_cast<uint32_t>(num_threads);
  return Weights::Load(folder, description->config, load);
}

absl::StatusOr<BenchEngine> BenchEngine::Create(const Options& options,
                                                std::shared_ptr<const Weights> weights) {
  auto executor = CpuExecutor::Create(options.executor, std::move(weights));
  if (!executor.ok()) return executor.status();
  const ExecutorLimits& limits = (*executor)->limits();
  BatchScheduler::Options scheduler;
  scheduler.kv.num_blocks = limits.num_blocks;
  scheduler.kv.block_size = limits.block_size;
  scheduler.kv.enable_prefix_caching = options.enable_prefix_caching;
  scheduler.max_num_seqs = limits.num_slots;
  scheduler.max_num_batched_tokens = limits.max_num_batched_tokens;
  scheduler.max_queue = 1u << 16;
  scheduler.kv_bytes_per_token = limits.kv_bytes_per_token;
  auto engine = std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(scheduler));
  return BenchEngine(*std::move(executor), std::move(engine));
}

void BenchEngine::Submit(std::vector<TokenId> prompt, uint32_t max_new_tokens,
                         const SamplingParams& params) {
  EngineRequest request;
  request.key = {0, next_request_++};
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  request.params = params;
  request.params.seed = request.key.request;
  QUIRE_CHECK(engine_->Submit(std::move(request), kNow).ok());
}

bool BenchEngine::Step() {
  const bool planned = engine_->Plan(kNow, &plan_);
  if (planned) {
    QUIRE_CHECK(executor_->Launch(plan_).ok());
    QUIRE_CHECK(executor_->Collect(&result_).ok());
    engine_->Settle(result_, kNow);
  }
  engine_->TakeOutput(&output_);
  num_tokens_out_ = static_cast<uint32_t>(output_.tokens.size());
  return planned;
}

void BenchEngine::CancelAll() {
  for (; first_alive_ < next_request_; ++first_alive_) {
    engine_->Cancel({0, first_alive_}, std::nullopt, std::nullopt, kNow);
  }
  RunUntilIdle();
}

std::vector<TokenId> RandomPrompts::Next(uint32_t num_tokens) {
  std::vector<TokenId> prompt(num_tokens);
  for (TokenId& token : prompt) token = ids_(random_);
  return prompt;
}

}  // namespace quire
