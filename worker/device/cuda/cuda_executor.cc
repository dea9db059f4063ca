#include "worker/device/cuda/cuda_executor.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/device/cuda/device_info.h"

namespace quire {
namespace {

using cuda::CudaStatus;
using cuda::DeviceStepInputs;
using cuda::kAttentionSegment;
using cuda::kMaxLogitsRows;
using cuda::StepRecord;

// Counts every change of the order in which the executor's numbers are summed or rounded.
constexpr uint32_t kRecipeVersion = 2;
// Counts every change of sampling.h's kernels.
constexpr uint32_t kSamplerVersion = 1;

constexpr uint32_t kMaxStepsInFlight = 2;
constexpr uint32_t kMostBatchedTokens = 1 << 20;
// Items of decode attention that share rows, at most: their partial results take memory.
constexpr uint32_t kMaxParts = 8192;
// Left for graphs and for what the driver takes as kernels are first used.
constexpr uint64_t kReserveBytes = uint64_t{1} << 30;

uint32_t CeilDiv(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

absl::Status CheckOptions(const CudaExecutorOptions& options, const ModelConfig& config) {
  if (options.num_slots == 0) return absl::InvalidArgumentError("num_slots 0: at least 1");
  if (options.max_num_batched_tokens < options.num_slots) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_batched_tokens ",
                                                   options.max_num_batched_tokens,
                                                   ": at least num_slots, ", options.num_slots));
  }
  if (options.max_num_batched_tokens > kMostBatchedTokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_batched_tokens ",
                                                   options.max_num_batched_tokens, ": at most ",
                                                   kMostBatchedTokens));
  }
  if (options.context_length > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("context_length ", options.context_length,
                                                   ": the model goes to ",
                                                   config.max_position_embeddings));
  }
  if (options.block_size == 0 || options.block_size % 16 != 0 ||
      kAttentionSegment % options.block_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat("block_size ", options.block_size,
                                                   ": a multiple of 16 that divides ",
                                                   kAttentionSegment, " is needed"));
  }
  if (!(options.gpu_memory_utilization > 0.0 && options.gpu_memory_utilization <= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("gpu_memory_utilization ",
                                                   options.gpu_memory_utilization,
                                                   ": above 0 and at most 1 is needed"));
  }
  return CheckShards(config, options.shard.size);
}

// Rows that a decoding step of so many runs has: a step replays the smallest graph that holds it.
uint32_t GraphRows(uint32_t num_runs) {
  for (const uint32_t rows : {1u, 2u, 4u, 8u, 16u}) {
    if (num_runs <= rows) return rows;
  }
  return cuda::LinearShape::PaddedRows(num_runs);
}

std::string Gib(uint64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (uint64_t{1} << 30));
}

std::string Describe(const CudaMemoryAccount& account) {
  return absl::StrCat("of ", Gib(account.total), ": weights ", Gib(account.weights), ", KV pool ",
                      Gib(account.kv_pool), ", activations and workspaces ", Gib(account.scratch),
                      ", graphs ", Gib(account.graphs), ", free ", Gib(account.free));
}

}  // namespace

CudaExecutor::CudaExecutor(const CudaExecutorOptions& options, const ModelConfig& config,
                           DType dtype)
    : options_(options), config_(config), dtype_(dtype) {}

CudaExecutor::~CudaExecutor() {
  // Memory must outlive the kernels that use it. An error has been told already, or does not matter
  // any more.
  if (stream_.get() != nullptr) cudaStreamSynchronize(stream_.get());
}

absl::StatusOr<std::unique_ptr<CudaExecutor>> CudaExecutor::Create(
    const CudaExecutorOptions& options, const Weights& weights, const Progress& progress) {
  if (absl::Status status = CheckOptions(options, weights.config()); !status.ok()) return status;
  if (!options.exact && weights.dtype() != DType::kBF16) {
    return absl::InvalidArgumentError("exact off: for bfloat16 alone");
  }
  std::unique_ptr<CudaExecutor> executor(
      new CudaExecutor(options, weights.config(), weights.dtype()));
  if (absl::Status status = executor->Start(weights, progress); !status.ok()) return status;
  return executor;
}

absl::Status CudaExecutor::Start(const Weights& weights, const Progress& progress) {
  absl::StatusOr<cuda::DeviceInfo> info = cuda::FindDevice(options_.device);
  if (!info.ok()) return info.status();
  if (cudaError_t error = cudaSetDevice(options_.device); error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("GPU ", options_.device));
  }
  device_name_ = info->name;
  memory_.total = info->memory_bytes;
  absl::StatusOr<cuda::Stream> stream = cuda::Stream::Create();
  if (!stream.ok()) return stream.status();
  stream_ = *std::move(stream);

  if (options_.group != nullptr) {
    if (absl::Status status = options_.group->Join(options_.shard.rank); !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = MakeModel(weights); !status.ok()) return status;
  if (progress) {
    progress(absl::StrCat("weights on the device, ", Gib(model_->weight_bytes()),
                          "; matrix products: ", model_->num_exact_algorithms(), " of ",
                          model_->num_tried_algorithms(),
                          options_.exact ? " library algorithms gave the reference's bits"
                                         : " fastest library algorithms gave the reference's bits, "
                                           "which is not asked (not exact)"));
  }
  if (absl::Status status = AllocateSteps(); !status.ok()) return status;
  // Steps make the devices wait for each other, which a rank that has failed so far would not join.
  if (absl::Status status = MeetRanks(); !status.ok()) return status;
  if (options_.use_graphs) {
    if (absl::Status status = CaptureGraphs(progress); !status.ok()) return status;
  }
  size_t free = 0;
  size_t total = 0;
  if (cudaError_t error = cudaMemGetInfo(&free, &total); error != cudaSuccess) {
    return CudaStatus(error, "cudaMemGetInfo");
  }
  memory_.free = free;
  if (progress) progress(absl::StrCat("memory ", Describe(memory_)));
  return absl::OkStatus();
}

absl::Status CudaExecutor::MakeModel(const Weights& weights) {
  limits_.num_slots = options_.num_slots;
  limits_.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits_.context_length =
      options_.context_length > 0 ? options_.context_length : config_.max_position_embeddings;
  limits_.vocabulary_size = config_.vocab_size;
  limits_.block_size = options_.block_size;
  limits_.max_steps_in_flight = kMaxStepsInFlight;
  const uint64_t most_parts =
      uint64_t{options_.num_slots} *
      CeilDiv(limits_.context_length, options_.exact ? kAttentionSegment : cuda::kAttentionTile);
  max_parts_ = static_cast<uint32_t>(std::min<uint64_t>(most_parts, kMaxParts));

  cuda::CudaModel::Options options;
  options.max_rows = limits_.max_num_batched_tokens;
  options.context_length = limits_.context_length;
  options.block_size = options_.block_size;
  options.max_parts = max_parts_;
  options.shard = options_.shard;
  options.group = options_.group;
  options.exact = options_.exact;
  auto model = cuda::CudaModel::Create(options, weights, stream_.get());
  if (!model.ok()) return model.status();
  model_ = *std::move(model);
  return absl::OkStatus();
}

// Slots, results and the KV pool, which takes what is left.
absl::Status CudaExecutor::AllocateSteps() {
  const uint32_t table_stride = CeilDiv(limits_.context_length, options_.block_size);
  auto slots = cuda::CudaSlots::Create(options_.num_slots, table_stride, config_.vocab_size);
  if (!slots.ok()) return slots.status();
  slots_ = *std::move(slots);
  for (uint32_t i = 0; i < kMaxStepsInFlight; ++i) {
    auto pending = cuda::PendingStep::Create(limits_.max_num_batched_tokens);
    if (!pending.ok()) return pending.status();
    pending_.push_back(*std::move(pending));
  }
  memory_.weights = model_->weight_bytes();
  memory_.scratch = model_->scratch_bytes() + slots_.bytes();

  absl::StatusOr<uint32_t> num_blocks = NumBlocks();
  if (!num_blocks.ok()) return num_blocks.status();
  limits_.num_blocks = *num_blocks;
  limits_.kv_bytes_per_token = model_->kv_bytes_per_block() / options_.block_size;
  memory_.kv_pool = *num_blocks * model_->kv_bytes_per_block();
  if (absl::Status status = model_->AllocateKv(*num_blocks); !status.ok()) return status;

  cuda::StepBuilder::Options builder;
  builder.num_slots = limits_.num_slots;
  builder.max_num_batched_tokens = limits_.max_num_batched_tokens;
  builder.context_length = limits_.context_length;
  builder.block_size = limits_.block_size;
  builder.num_blocks = limits_.num_blocks;
  builder.num_heads = config_.num_heads / options_.shard.size;
  builder.num_kv_heads = config_.num_kv_heads / options_.shard.size;
  builder.attention_blocks = model_->attention_blocks();
  builder.max_parts = max_parts_;
  builder.exact = options_.exact;
  builder_ = std::make_unique<cuda::StepBuilder>(builder);
  auto uploader = cuda::StepUploader::Create(builder_->max_input_bytes(), kMaxStepsInFlight);
  if (!uploader.ok()) return uploader.status();
  uploader_ = *std::move(uploader);
  // What was zeroed on the default stream, which the executor's does not wait for.
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? absl::OkStatus() : CudaStatus(error, "clearing memory");
}

absl::StatusOr<uint32_t> CudaExecutor::NumBlocks() {
  if (options_.num_blocks > 0) return options_.num_blocks;
  const uint64_t block_bytes = model_->kv_bytes_per_block();
  size_t free = 0;
  size_t total = 0;
  if (cudaError_t error = cudaMemGetInfo(&free, &total); error != cudaSuccess) {
    return CudaStatus(error, "cudaMemGetInfo");
  }
  memory_.free = free;
  uint64_t bytes = options_.kv_cache_bytes / options_.shard.size;
  std::string bound = "kv_cache_bytes allow ";
  if (bytes == 0) {
    const uint64_t allowed =
        static_cast<uint64_t>(static_cast<double>(total) * options_.gpu_memory_utilization);
    const uint64_t taken = total - free + kReserveBytes;
    bytes = allowed > taken ? allowed - taken : 0;
    bound = absl::StrCat("gpu_memory_utilization ", options_.gpu_memory_utilization, " leaves ");
  }
  // One sequence at full length must fit, or it would never be served.
  const uint64_t needed = CeilDiv(limits_.context_length, options_.block_size);
  if (bytes / block_bytes < needed) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the KV pool: a sequence of ", limits_.context_length, " tokens needs ",
        Gib(needed * block_bytes), ", and ", bound, Gib(bytes), "; memory ", Describe(memory_)));
  }
  const uint64_t fitting =
      std::min<uint64_t>(bytes / block_bytes, std::numeric_limits<int32_t>::max());
  if (options_.group == nullptr) return static_cast<uint32_t>(fitting);
  // All ranks have the same blocks.
  const absl::StatusOr<uint64_t> least = options_.group->rendezvous().Least(fitting);
  if (!least.ok()) return least.status();
  return static_cast<uint32_t>(*least);
}

absl::Status CudaExecutor::MeetRanks() {
  return options_.group == nullptr ? absl::OkStatus() : options_.group->rendezvous().Arrive();
}

absl::Status CudaExecutor::StepError(cudaError_t error, absl::string_view what) const {
  if (options_.group != nullptr) {
    if (absl::Status status = options_.group->Check(options_.shard.rank); !status.ok()) {
      return status;
    }
  }
  return CudaStatus(error, what);
}

absl::Status CudaExecutor::CaptureGraphs(const Progress& progress) {
  size_t before = 0;
  size_t after = 0;
  size_t total = 0;
  if (cudaError_t error = cudaMemGetInfo(&before, &total); error != cudaSuccess) {
    return CudaStatus(error, "cudaMemGetInfo");
  }
  const uint32_t most = std::min(limits_.num_slots, kMaxLogitsRows);
  for (uint32_t runs = 1; runs <= most; runs = graphs_.back().num_rows + 1) {
    const uint32_t graph_rows = GraphRows(runs);
    absl::StatusOr<cuda::Graph> captured = Capture(graph_rows);
    if (!captured.ok()) return captured.status();
    graphs_.push_back({graph_rows, *std::move(captured)});
  }
  if (cudaError_t error = cudaMemGetInfo(&after, &total); error != cudaSuccess) {
    return CudaStatus(error, "cudaMemGetInfo");
  }
  memory_.graphs = before > after ? before - after : 0;
  if (progress) {
    progress(absl::StrCat("captured ", graphs_.size(), " graphs, for up to ",
                          graphs_.back().num_rows, " sequences"));
  }
  return absl::OkStatus();
}

absl::StatusOr<cuda::Graph> CudaExecutor::Capture(uint32_t num_rows) {
  const DeviceStepInputs at = uploader_.At(num_rows, num_rows);
  cuda::ForwardBatch batch;
  batch.num_rows = num_rows;
  batch.row_tokens = at.row_tokens;
  batch.row_slots = at.row_slots;
  batch.row_positions = at.row_positions;
  batch.decode_items = at.decode_items;
  batch.num_decode_items = at.num_decode_items;
  batch.max_decode_items = max_parts_ + num_rows;
  const auto enqueue = [&]() -> cudaError_t {
    const cudaError_t error = model_->Forward(batch, slots_.pointers(), stream_.get());
    return error != cudaSuccess ? error : model_->Logits(at.logits_rows, num_rows, stream_.get());
  };
  // Once without capture, which loads the kernels. The inputs say that no row does anything.
  const std::string what = absl::StrCat("a step of ", num_rows, " rows");
  cuda::StepInputs nothing;
  nothing.Pad(num_rows, num_rows);
  absl::StatusOr<DeviceStepInputs> uploaded = uploader_.Upload(nothing, stream_.get());
  if (!uploaded.ok()) return uploaded.status();
  if (cudaError_t error = enqueue(); error != cudaSuccess) return StepError(error, what);
  if (absl::Status status = stream_.Synchronize(what); !status.ok()) return status;
  return cuda::Graph::Capture(stream_.get(), what, enqueue);
}

NumericsParts CudaExecutor::numerics_parts() const {
  const std::string dtype(DTypeName(dtype_));
  NumericsParts parts = {{"executor", "cuda"},
                         {"gpu", device_name_},
                         // expf of the fp32 recipe is the toolkit's own code.
                         {"cuda_toolkit", absl::StrCat(CUDART_VERSION)},
                         {"recipe_version", absl::StrCat(kRecipeVersion)},
                         {"sampler_version", absl::StrCat(kSamplerVersion)},
                         {"compute_dtype", dtype},
                         {"kv_dtype", dtype},
                         {"attention_segment_tokens", absl::StrCat(kAttentionSegment)},
                         {"attention_tile_tokens", absl::StrCat(cuda::kAttentionTile)}};
  // No other id can then match.
  if (!options_.exact) parts.emplace_back("exact", "false");
  return parts;
}

absl::Status CudaExecutor::Launch(const StepPlan& plan) {
  QUIRE_CHECK(num_pending_ < kMaxStepsInFlight);
  // The current device is each thread's own.
  if (cudaError_t error = cudaSetDevice(options_.device); error != cudaSuccess) {
    return CudaStatus(error, "the step's device");
  }
  cuda::PendingStep& pending = pending_[(first_pending_ + num_pending_) % kMaxStepsInFlight];
  absl::Status status = builder_->Build(
      plan, [this] { return UploadInputs().status(); }, &pending.record());
  if (!status.ok()) return status;
  const StepGraph* const graph = FindGraph();
  if (graph != nullptr) builder_->inputs().Pad(graph->num_rows, graph->num_rows);
  absl::StatusOr<DeviceStepInputs> at = UploadInputs();
  if (!at.ok()) return at.status();
  status = EnqueueRows(*at, graph, pending);
  if (!status.ok()) return status;
  const cudaError_t error = pending.Enqueue(model_->faults(), stream_.get());
  if (error != cudaSuccess) return CudaStatus(error, "a step's results");
  ++num_pending_;
  return absl::OkStatus();
}

absl::StatusOr<DeviceStepInputs> CudaExecutor::UploadInputs() {
  absl::StatusOr<DeviceStepInputs> at = uploader_.Upload(builder_->inputs(), stream_.get());
  if (!at.ok()) return at;
  const cudaError_t error = slots_.Update(builder_->inputs(), *at, stream_.get());
  if (error != cudaSuccess) return CudaStatus(error, "changes to slots");
  return at;
}

const CudaExecutor::StepGraph* CudaExecutor::FindGraph() const {
  if (!builder_->is_decoding()) return nullptr;
  const auto graph =
      std::lower_bound(graphs_.begin(), graphs_.end(), builder_->inputs().row_tokens.size(),
                       [](const StepGraph& at, size_t wanted) { return at.num_rows < wanted; });
  return graph == graphs_.end() ? nullptr : &*graph;
}

cuda::ForwardBatch CudaExecutor::BatchAt(const DeviceStepInputs& at) const {
  const cuda::StepInputs& inputs = builder_->inputs();
  cuda::ForwardBatch batch;
  batch.num_rows = static_cast<uint32_t>(inputs.row_tokens.size());
  batch.row_tokens = at.row_tokens;
  batch.row_slots = at.row_slots;
  batch.row_positions = at.row_positions;
  batch.decode_items = at.decode_items;
  batch.num_decode_items = at.num_decode_items;
  batch.max_decode_items = static_cast<uint32_t>(inputs.decode_items.size());
  batch.prefill_tiles = at.prefill_tiles;
  batch.num_prefill_tiles = static_cast<uint32_t>(inputs.prefill_tiles.size());
  return batch;
}

absl::Status CudaExecutor::EnqueueRows(const DeviceStepInputs& at, const StepGraph* graph,
                                       const cuda::PendingStep& pending) {
  const StepRecord& record = pending.record();
  if (record.num_rows == 0) return absl::OkStatus();
  const uint32_t num_logits = static_cast<uint32_t>(record.rows.size());
  cudaError_t error = graph != nullptr
                          ? graph->graph.Launch(stream_.get())
                          : model_->Forward(BatchAt(at), slots_.pointers(), stream_.get());
  for (uint32_t first = 0; first < num_logits && error == cudaSuccess; first += kMaxLogitsRows) {
    const uint32_t count = std::min(kMaxLogitsRows, num_logits - first);
    // A graph's logits are there already: it never has more rows than are held at once.
    if (graph == nullptr) error = model_->Logits(at.logits_rows + first, count, stream_.get());
    if (error != cudaSuccess) break;
    absl::Status status = EnqueueSampling(at, first, count, pending);
    if (status.ok() && observer_) status = ShowLogits(record, first, count);
    if (!status.ok()) return status;
  }
  if (error == cudaSuccess) return absl::OkStatus();
  return StepError(error, absl::StrCat("a step of ", record.num_rows, " rows"));
}

absl::Status CudaExecutor::EnqueueSampling(const DeviceStepInputs& at, uint32_t first,
                                           uint32_t count, const cuda::PendingStep& pending) {
  cuda::SamplingArgs args;
  args.num_rows = count;
  args.logits = model_->logits();
  args.rows = at.logits + first;
  args.faults = model_->faults();
  args.logits_rows = at.logits_rows + first;
  slots_.Describe(&args);
  pending.Describe(first, &args);
  const cudaError_t error = cuda::Sample(args, builder_->needs(), stream_.get());
  return error == cudaSuccess ? absl::OkStatus() : StepError(error, "sampling");
}

absl::Status CudaExecutor::ShowLogits(const StepRecord& record, uint32_t first, uint32_t count) {
  observed_.resize(size_t{count} * config_.vocab_size);
  const cudaError_t error =
      cudaMemcpyAsync(observed_.data(), model_->logits(), observed_.size() * sizeof(float),
                      cudaMemcpyDeviceToHost, stream_.get());
  if (error != cudaSuccess) return CudaStatus(error, "logits for the observer");
  absl::Status status = stream_.Synchronize("logits for the observer");
  if (!status.ok()) return status;
  for (uint32_t i = 0; i < count; ++i) {
    observer_(static_cast<SlotId>(builder_->inputs().logits[first + i].slot),
              record.rows[first + i].position, observed_.data() + size_t{i} * config_.vocab_size);
  }
  return absl::OkStatus();
}

absl::Status CudaExecutor::Collect(StepResult* result) {
  QUIRE_CHECK(num_pending_ > 0);
  // The current device is each thread's own.
  if (cudaError_t error = cudaSetDevice(options_.device); error != cudaSuccess) {
    return CudaStatus(error, "the step's device");
  }
  const cuda::PendingStep& pending = pending_[first_pending_];
  if (absl::Status status = pending.Wait(); !status.ok()) return status;
  if (options_.group != nullptr) {
    // Results of a step that was ended, not finished, mean nothing.
    if (absl::Status status = options_.group->Check(options_.shard.rank); !status.ok()) {
      return status;
    }
  }
  pending.Read(config_.vocab_size, result);
  first_pending_ = (first_pending_ + 1) % kMaxStepsInFlight;
  --num_pending_;
  return absl::OkStatus();
}

void CudaExecutor::FillWithNanForTest(BlockId block) {
  cudaSetDevice(options_.device);
  const uint64_t layer_bytes = model_->kv_bytes() / config_.num_layers;
  const uint64_t block_bytes = layer_bytes / limits_.num_blocks;
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    uint8_t* at =
        static_cast<uint8_t*>(model_->kv_for_test()) + layer * layer_bytes + block * block_bytes;
    cudaMemsetAsync(at, 0xFF, block_bytes, stream_.get());
  }
}

}  // namespace quire
