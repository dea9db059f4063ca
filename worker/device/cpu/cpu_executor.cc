#include "worker/device/cpu/cpu_executor.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/kernels/self_test.h"

namespace quire {
namespace {

// Counts every change of the order in which the executor's numbers are summed or rounded.
constexpr uint32_t kRecipeVersion = 1;

absl::Status CheckOptions(const CpuExecutorOptions& options, const ModelConfig& config) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads ", options.num_threads, ": at least 1"));
  }
  if (options.num_slots == 0) return absl::InvalidArgumentError("num_slots 0: at least 1");
  if (options.max_num_batched_tokens < options.num_slots) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_batched_tokens ",
                                                   options.max_num_batched_tokens,
                                                   ": at least num_slots, ", options.num_slots));
  }
  if (options.context_length > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("context_length ", options.context_length,
                                                   ": the model goes to ",
                                                   config.max_position_embeddings));
  }
  return CheckShards(config, options.shard.size);
}

absl::StatusOr<uint32_t> NumBlocks(const CpuExecutorOptions& options, const KvGeometry& geometry) {
  if (options.num_blocks > 0) return options.num_blocks;
  const uint64_t block_bytes = geometry.bytes_per_block() * options.shard.size;
  const uint64_t fitting = geometry.block_size == 0 ? 0 : options.kv_cache_bytes / block_bytes;
  if (fitting == 0) {
    return absl::InvalidArgumentError(absl::StrCat("kv_cache_bytes ", options.kv_cache_bytes,
                                                   ": not one block of ", block_bytes,
                                                   " bytes fits"));
  }
  return static_cast<uint32_t>(
      std::min<uint64_t>(fitting, std::numeric_limits<uint32_t>::max() / 2));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuExecutor>> CpuExecutor::Create(
    const CpuExecutorOptions& options, std::shared_ptr<const Weights> weights) {
  const ModelConfig config = weights->config();
  if (absl::Status status = CheckOptions(options, config); !status.ok()) return status;
  const Isa isa = options.isa ? *options.isa : FastestExactIsa();

  const KvGeometry geometry = {.num_layers = config.num_layers,
                               .num_kv_heads = config.num_kv_heads / options.shard.size,
                               .head_dim = config.head_dim,
                               .block_size = options.block_size,
                               .dtype = weights->dtype()};
  absl::StatusOr<uint32_t> num_blocks = NumBlocks(options, geometry);
  if (!num_blocks.ok()) return num_blocks.status();
  absl::StatusOr<KvStore> kv = KvStore::Create(geometry, *num_blocks);
  if (!kv.ok()) return kv.status();

  ExecutorLimits limits;
  limits.num_slots = options.num_slots;
  limits.max_num_batched_tokens = options.max_num_batched_tokens;
  limits.context_length =
      options.context_length > 0 ? options.context_length : config.max_position_embeddings;
  limits.vocabulary_size = config.vocab_size;
  limits.block_size = options.block_size;
  limits.num_blocks = *num_blocks;
  limits.kv_bytes_per_token = geometry.bytes_per_token();
  limits.max_steps_in_flight = 1;

  auto pool = std::make_unique<ThreadPool>(options.num_threads);
  absl::StatusOr<std::unique_ptr<CpuModel>> model =
      CpuModel::Create({.isa = isa,
                        .max_rows = limits.max_num_batched_tokens,
                        .context_length = limits.context_length,
                        .shard = options.shard,
                        .group = options.group},
                       std::move(weights), *pool);
  if (!model.ok()) return model.status();
  return std::unique_ptr<CpuExecutor>(
      new CpuExecutor(options, limits, isa, std::move(pool), *std::move(model), *std::move(kv)));
}

CpuExecutor::CpuExecutor(const CpuExecutorOptions& options, const ExecutorLimits& limits, Isa isa,
                         std::unique_ptr<ThreadPool> pool, std::unique_ptr<CpuModel> model,
                         KvStore kv)
    : limits_(limits),
      isa_(isa),
      group_(options.group),
      pool_(std::move(pool)),
      model_(std::move(model)),
      kv_(std::move(kv)),
      slots_({.num_slots = limits.num_slots,
              .context_length = limits.context_length,
              .vocabulary_size = limits.vocabulary_size,
              .block_size = limits.block_size,
              .num_blocks = limits.num_blocks}) {
  samplers_.reserve(static_cast<size_t>(options.num_threads));
  for (int i = 0; i < options.num_threads; ++i) {
    samplers_.emplace_back(KernelsFor(isa).sampling, limits.vocabulary_size);
  }
}

NumericsParts CpuExecutor::numerics_parts() const {
  const char* dtype = kv_.geometry().dtype == DType::kF32 ? "float32" : "bfloat16";
  return {{"executor", "cpu"},
          {"recipe_version", absl::StrCat(kRecipeVersion)},
          {"sampler_version", absl::StrCat(kSamplerVersion)},
          {"compute_dtype", dtype},
          {"kv_dtype", dtype},
          {"attention_segment_tokens", absl::StrCat(kAttentionSegment)}};
}

absl::Status CpuExecutor::Launch(const StepPlan& plan) {
  QUIRE_CHECK(!has_result_);
  slots_.Apply(plan);
  BuildBatch(plan);
  if (batch_.num_rows > 0) {
    model_->Prepare(batch_);
    bool complete = true;
    pool_->Run([&](ThreadContext& context) {
      const bool done = model_->Forward(
          context, batch_, kv_, [&](ThreadContext& at, uint32_t index, const float* logits) {
            TakeLogits(at.index(), index, logits);
          });
      if (context.index() == 0) complete = done;
    });
    if (!complete) return group_->rendezvous().status();
  }
  BuildResult(plan);
  has_result_ = true;
  return absl::OkStatus();
}

absl::Status CpuExecutor::Collect(StepResult* result) {
  QUIRE_CHECK(has_result_);
  std::swap(*result, result_);
  has_result_ = false;
  return absl::OkStatus();
}

void CpuExecutor::BuildBatch(const StepPlan& plan) {
  batch_.Clear();
  runs_.assign(plan.runs.begin(), plan.runs.end());
  logits_rows_.clear();
  for (uint32_t i = 0; i < runs_.size(); ++i) {
    const SlotRun& run = runs_[i];
    QUIRE_CHECK(slots_.Covers(run));
    const Slot& slot = slots_.at(run.slot);
    const bool wants_prompt = slot.params->prompt_logprobs.has_value();
    for (uint32_t j = 0; j < run.num_tokens; ++j) {
      const uint32_t position = slot.next_position + j;
      const bool samples = run.samples && j + 1 == run.num_tokens;
      const bool predicts_prompt = wants_prompt && position + 1 < slot.num_prompt_tokens;
      if (!samples && !predicts_prompt) continue;
      LogitsRow& row = logits_rows_.emplace_back();
      row.run = i;
      row.position = position;
      row.samples = samples;
      if (predicts_prompt) row.prompt_token = slot.tokens[position + 1];
      batch_.logits_rows.push_back(batch_.num_rows + j);
    }
    batch_.runs.push_back({.first_row = batch_.num_rows,
                           .num_rows = run.num_tokens,
                           .first_position = slot.next_position,
                           .tokens = slot.tokens.data() + slot.next_position,
                           .blocks = slot.blocks.data()});
    batch_.num_rows += run.num_tokens;
  }
  QUIRE_CHECK(batch_.num_rows <= limits_.max_num_batched_tokens);
  if (observer_) observed_.resize(logits_rows_.size());
}

void CpuExecutor::TakeLogits(int thread, uint32_t index, const float* logits) {
  LogitsRow& row = logits_rows_[index];
  const Slot& slot = slots_.at(runs_[row.run].slot);
  Sampler& sampler = samplers_[static_cast<size_t>(thread)];
  row.finite = true;
  if (row.prompt_token) {
    row.finite = sampler.Logprobs(logits, *row.prompt_token, *slot.params->prompt_logprobs,
                                  &row.prompt_logprobs);
  }
  if (row.samples && row.finite) {
    Sampler::Choice choice = sampler.Sample({.logits = logits,
                                             .position = row.position + 1,
                                             .num_output_tokens = slot.num_output_tokens(),
                                             .counts = &slot.counts},
                                            *slot.params);
    row.finite = choice.finite;
    row.token = choice.token;
    row.sampled_logprobs = std::move(choice.logprobs);
  }
  if (observer_) observed_[index].assign(logits, logits + limits_.vocabulary_size);
}

NumericFault CpuExecutor::RunFault(uint32_t run) const {
  const ForwardRun& rows = batch_.runs[run];
  for (uint32_t row = rows.first_row; row < rows.first_row + rows.num_rows; ++row) {
    if (model_->fault(row) != NumericFault::kNone) return model_->fault(row);
  }
  return NumericFault::kNone;
}

void CpuExecutor::BuildResult(const StepPlan& plan) {
  result_.Clear();
  result_.step = plan.step;
  if (observer_) {
    for (size_t i = 0; i < logits_rows_.size(); ++i) {
      observer_(runs_[logits_rows_[i].run].slot, logits_rows_[i].position, observed_[i].data());
    }
  }
  auto row = logits_rows_.begin();
  for (uint32_t i = 0; i < runs_.size(); ++i) {
    const SlotRun& run = runs_[i];
    const auto first = row;
    while (row != logits_rows_.end() && row->run == i) ++row;

    SlotOutput& output = result_.outputs.emplace_back();
    output.slot = run.slot;
    output.first_token = static_cast<uint32_t>(result_.tokens.size());
    output.fault = RunFault(i);
    if (output.fault == NumericFault::kNone &&
        std::any_of(first, row, [](const LogitsRow& r) { return !r.finite; })) {
      output.fault = NumericFault::kLogits;
    }
    slots_.Advance(run);
    if (output.fault != NumericFault::kNone) continue;
    if (run.samples) {
      const LogitsRow& last = *std::prev(row);
      output.num_tokens = 1;
      result_.tokens.push_back(last.token);
      slots_.Append(run.slot, last.token);
    }
    AddLogprobs(i, {first, row});
  }
}

void CpuExecutor::AddLogprobs(uint32_t output, std::span<LogitsRow> rows) {
  const SamplingParams& params = *slots_.at(runs_[output].slot).params;
  if (rows.empty() || (!params.logprobs && !params.prompt_logprobs)) return;
  StepResult::Logprobs logprobs;
  logprobs.output = output;
  for (LogitsRow& row : rows) {
    if (row.prompt_token) {
      if (logprobs.prompt.empty()) logprobs.first_prompt_position = row.position + 1;
      logprobs.prompt.push_back(std::move(row.prompt_logprobs));
    }
    if (row.samples && params.logprobs) {
      logprobs.tokens.push_back(std::move(row.sampled_logprobs));
    }
  }
  if (logprobs.prompt.empty() && logprobs.tokens.empty()) return;
  result_.logprobs.push_back(std::move(logprobs));
}

}  // namespace quire
