#include "worker/device/torch_baseline/torch_baseline_executor.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <exception>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/kernels/self_test.h"
#include "worker/device/torch_baseline/torch_kv_cache.h"
#include "worker/device/torch_baseline/torch_model.h"

namespace quire {
namespace {

// Rows of logits held at once when a whole prompt's are asked for.
constexpr uint32_t kPromptLogitsRows = 64;

// The border: calls fn, which uses torch, and turns what it throws into a Status of `code`.
template <typename Fn>
absl::Status CatchTorch(absl::StatusCode code, const std::string& doing, Fn&& fn) {
  try {
    const c10::InferenceMode inference;
    fn();
    return absl::OkStatus();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat(doing, ": torch says: ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return absl::Status(code,
                        absl::StrCat(doing, ": torch says: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::Status(code, absl::StrCat(doing, ": ", error.what()));
  }
}

// Makes torch's CUDA operators known. Programs are not linked with them: loading them takes 0.4 s
// and 230 MB, which the other engines have no use for.
absl::Status LoadCuda() {
  static const void* const library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("torch's CUDA library: ", dlerror()));
  }
  if (!at::globalContext().hasCUDA()) {
    return absl::FailedPreconditionError("torch finds no GPU that it can use");
  }
  at::globalContext().setFloat32MatmulPrecision("highest");
  return absl::OkStatus();
}

c10::Device TorchDevice(BaselineDevice device) {
  return device == BaselineDevice::kCuda ? c10::Device(at::kCUDA, 0) : c10::Device(at::kCPU);
}

absl::StatusOr<ExecutorLimits> Limits(const Weights& weights, const TorchBaselineOptions& options) {
  const ModelConfig& config = weights.config();
  if (options.num_threads == 0) return absl::InvalidArgumentError("num_threads 0: at least 1");
  if (options.context_length > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("context_length ", options.context_length,
                                                   ": the model goes to ",
                                                   config.max_position_embeddings));
  }
  if (weights.dtype() == DType::kF16) {
    return absl::UnimplementedError("the baseline computes in fp32 or bf16, not in float16");
  }
  ExecutorLimits limits;
  limits.num_slots = 1;
  limits.context_length =
      options.context_length > 0 ? options.context_length : config.max_position_embeddings;
  limits.max_num_batched_tokens = limits.context_length;
  limits.vocabulary_size = config.vocab_size;
  limits.kv_bytes_per_token =
      uint64_t{2} * config.num_layers * config.kv_size() * SizeOf(weights.dtype());
  return limits;
}

TorchKvShape KvShape(const Weights& weights, c10::Device device) {
  const ModelConfig& config = weights.config();
  return {.num_layers = config.num_layers,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .dtype = weights.dtype() == DType::kF32 ? at::kFloat : at::kBFloat16,
          .device = device,
          .sliding_window = config.sliding_window};
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchBaselineExecutor>> TorchBaselineExecutor::Create(
    std::shared_ptr<const Weights> weights, const TorchBaselineOptions& options) {
  const absl::StatusOr<ExecutorLimits> limits = Limits(*weights, options);
  if (!limits.ok()) return limits.status();
  absl::Status status;
  if (options.device == BaselineDevice::kCuda) status = LoadCuda();
  if (!status.ok()) return status;

  const c10::Device device = TorchDevice(options.device);
  std::unique_ptr<TorchKvCache> cache;
  status = CatchTorch(absl::StatusCode::kResourceExhausted,
                      absl::StrCat("reserving a KV cache of ", limits->context_length, " tokens, ",
                                   limits->kv_bytes_per_token, " bytes each"),
                      [&] {
                        const TorchKvShape shape = KvShape(*weights, device);
                        cache = options.cache == BaselineCache::kStatic
                                    ? MakeStaticKvCache(shape, limits->context_length)
                                    : MakeDynamicKvCache(shape);
                      });
  if (!status.ok()) return status;

  std::unique_ptr<TorchModel> model;
  status = CatchTorch(absl::StatusCode::kInternal, "preparing the model", [&] {
    at::set_num_threads(static_cast<int>(options.num_threads));
    model = std::make_unique<TorchModel>(std::move(weights), limits->context_length, device);
  });
  if (!status.ok()) return status;
  std::unique_ptr<TorchBaselineExecutor> executor(
      new TorchBaselineExecutor(options, *limits, std::move(cache), std::move(model)));
  if (options.device == BaselineDevice::kCuda) {
    status = CatchTorch(absl::StatusCode::kInternal, "the first tokens on the GPU",
                        [&] { executor->WarmUp(); });
    if (!status.ok()) return status;
  }
  return executor;
}

TorchBaselineExecutor::TorchBaselineExecutor(const TorchBaselineOptions& options,
                                             const ExecutorLimits& limits,
                                             std::unique_ptr<TorchKvCache> cache,
                                             std::unique_ptr<TorchModel> model)
    : options_(options),
      limits_(limits),
      cache_(std::move(cache)),
      model_(std::move(model)),
      sampler_(KernelsFor(FastestExactIsa()).sampling, limits.vocabulary_size),
      slots_({.num_slots = limits.num_slots,
              .context_length = limits.context_length,
              .vocabulary_size = limits.vocabulary_size}) {}

TorchBaselineExecutor::~TorchBaselineExecutor() = default;

NumericsParts TorchBaselineExecutor::numerics_parts() const {
  NumericsParts parts = {
      {"executor", "torch_baseline"},
      {"torch_version", TORCH_VERSION},
      {"kv_cache", options_.cache == BaselineCache::kStatic ? "static" : "dynamic"},
      {"sampler_version", absl::StrCat(kSamplerVersion)}};
  if (options_.device == BaselineDevice::kCuda) {
    parts.push_back({"device", "cuda"});
  } else {
    parts.push_back({"torch_cpu_capability", at::get_cpu_capability()});
    parts.push_back({"num_threads", absl::StrCat(options_.num_threads)});
  }
  return parts;
}

absl::Status TorchBaselineExecutor::Launch(const StepPlan& plan) {
  QUIRE_CHECK(!has_result_);
  const absl::Status status = CatchTorch(absl::StatusCode::kInternal,
                                         absl::StrCat("step ", plan.step), [&] { Step(plan); });
  has_result_ = status.ok();
  return status;
}

absl::Status TorchBaselineExecutor::Collect(StepResult* result) {
  QUIRE_CHECK(has_result_);
  std::swap(*result, result_);
  has_result_ = false;
  return absl::OkStatus();
}

void TorchBaselineExecutor::WarmUp() {
  static constexpr std::array<TokenId, 4> kTokens = {};
  const auto run = [&](size_t num_tokens) {
    const auto hidden = model_->Forward(std::span(kTokens).first(num_tokens), *cache_);
    model_->Logits(hidden.states.narrow(1, 0, 1));
  };
  const size_t prompt = std::min<size_t>(kTokens.size(), limits_.context_length);
  run(prompt);
  if (prompt < limits_.context_length) run(1);
  cache_->Clear();
}

void TorchBaselineExecutor::Step(const StepPlan& plan) {
  // Threads take over the process's number of threads when they first ask for it.
  thread_local const bool initialized = (at::init_num_threads(), true);
  static_cast<void>(initialized);
  slots_.Apply(plan);
  for (const SlotFill& fill : plan.filled) QUIRE_CHECK(fill.num_cached_tokens == 0);
  if (!plan.freed.empty() || !plan.filled.empty()) cache_->Clear();
  result_.Clear();
  result_.step = plan.step;
  QUIRE_CHECK(plan.runs.size() <= limits_.num_slots);
  for (const SlotRun& run : plan.runs) Run(run);
  result_.kv = cache_->bytes();
}

void TorchBaselineExecutor::Run(const SlotRun& run) {
  QUIRE_CHECK(slots_.Covers(run));
  const Slot& slot = slots_.at(run.slot);
  const TorchModel::Hidden hidden =
      model_->Forward(std::span(slot.tokens).subspan(slot.next_position, run.num_tokens), *cache_);

  SlotOutput& output = result_.outputs.emplace_back();
  output.slot = run.slot;
  output.fault = hidden.fault;
  StepResult::Logprobs logprobs;
  if (output.fault == NumericFault::kNone && slot.params->prompt_logprobs) {
    output.fault = AddPromptLogprobs(slot, run.num_tokens, hidden.states, &logprobs);
  }
  std::optional<Sampler::Choice> choice;
  if (output.fault == NumericFault::kNone && run.samples) {
    choice = Sample(slot, hidden.states.narrow(1, run.num_tokens - 1, 1));
    if (!choice->finite) output.fault = NumericFault::kLogits;
  }
  slots_.Advance(run);
  if (output.fault != NumericFault::kNone) return;
  if (choice) {
    output.num_tokens = 1;
    result_.tokens.push_back(choice->token);
    slots_.Append(run.slot, choice->token);
    if (slot.params->logprobs) logprobs.tokens.push_back(std::move(choice->logprobs));
  }
  if (!logprobs.tokens.empty() || !logprobs.prompt.empty()) {
    result_.logprobs.push_back(std::move(logprobs));
  }
}

// The row at a position predicts the token at the next one.
NumericFault TorchBaselineExecutor::AddPromptLogprobs(const Slot& slot, uint32_t num_tokens,
                                                      const at::Tensor& states,
                                                      StepResult::Logprobs* out) {
  const uint32_t first = slot.next_position + 1;
  const uint32_t end = std::min(first + num_tokens, slot.num_prompt_tokens);
  out->first_prompt_position = first;
  for (uint32_t position = first; position < end;) {
    const uint32_t count = std::min(end - position, kPromptLogitsRows);
    const at::Tensor logits = model_->Logits(states.narrow(1, position - first, count));
    const float* row = logits.const_data_ptr<float>();
    bool finite = true;
    sampling_.Run([&](ThreadContext&) {
      for (uint32_t i = 0; i < count; ++i, ++position, row += limits_.vocabulary_size) {
        if (observer_) observer_(position - 1, row);
        finite &= sampler_.Logprobs(row, slot.tokens[position], *slot.params->prompt_logprobs,
                                    &out->prompt.emplace_back());
      }
    });
    if (!finite) return NumericFault::kLogits;
  }
  return NumericFault::kNone;
}

Sampler::Choice TorchBaselineExecutor::Sample(const Slot& slot, const at::Tensor& last_state) {
  const at::Tensor logits = model_->Logits(last_state);
  const float* row = logits.const_data_ptr<float>();
  if (observer_) observer_(static_cast<uint32_t>(slot.tokens.size()) - 1, row);
  Sampler::Choice choice;
  sampling_.Run([&](ThreadContext&) {
    choice = sampler_.Sample({.logits = row,
                              .position = static_cast<uint32_t>(slot.tokens.size()),
                              .num_output_tokens = slot.num_output_tokens(),
                              .counts = &slot.counts},
                             *slot.params);
  });
  return choice;
}

}  // namespace quire
