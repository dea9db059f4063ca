#include "worker/device/cuda/cuda_model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/batch/step_plan.h"
#include "scheduler/check.h"
#include "worker/device/cuda/kernels/elementwise.h"
#include "worker/device/cuda/kernels/kv_layout.h"
#include "worker/device/cuda/kernels/sampling.h"
#include "worker/model/rope.h"

namespace quire::cuda {
namespace {

// Layers whose weights a trial of algorithms goes through: of all but small models more than the
// cache holds.
constexpr uint32_t kTrialLayers = 16;

// What the kernels take.
absl::Status CheckShape(const ModelConfig& config) {
  const auto check = [](bool is_fit, const char* what, uint32_t value, const char* wanted) {
    if (is_fit) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("the CUDA executor: ", what, " ", value, ": ", wanted, " is needed"));
  };
  for (const absl::Status& status :
       {check(config.vocab_size <= kMaxVocabulary, "vocab_size", config.vocab_size,
              "at most 440,000"),
        check(config.hidden_size % 16 == 0 && config.hidden_size <= kMaxHiddenSize, "hidden_size",
              config.hidden_size, "a multiple of 16 up to 16,384"),
        check(config.intermediate_size % 16 == 0, "intermediate_size", config.intermediate_size,
              "a multiple of 16")}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

uint8_t Stage(NumericFault fault) { return static_cast<uint8_t>(fault); }

absl::StatusOr<DeviceBuffer> UploadFloats(const std::vector<float>& values, const char* what) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Create(values.size() * sizeof(float), what);
  if (!buffer.ok()) return buffer.status();
  const cudaError_t error =
      cudaMemcpy(buffer->data(), values.data(), buffer->size(), cudaMemcpyHostToDevice);
  if (error != cudaSuccess) return CudaStatus(error, what);
  return buffer;
}

}  // namespace

CudaModel::CudaModel(const Options& options, const ModelConfig& config, DType dtype)
    : options_(options), config_(config), sizes_(SizesOf(config, options.shard)), dtype_(dtype) {}

absl::StatusOr<std::unique_ptr<CudaModel>> CudaModel::Create(const Options& options,
                                                             const Weights& weights,
                                                             cudaStream_t stream) {
  if (weights.dtype() != DType::kF32 && weights.dtype() != DType::kBF16) {
    return absl::UnimplementedError(
        absl::StrCat("dtype ", std::string(DTypeName(weights.dtype())),
                     ": the CUDA executor computes in float32 or bfloat16"));
  }
  if (absl::Status status = CheckShape(weights.config()); !status.ok()) return status;
  if (absl::Status status = CheckShards(weights.config(), options.shard.size); !status.ok()) {
    return status;
  }
  std::unique_ptr<CudaModel> model(new CudaModel(options, weights.config(), weights.dtype()));
  absl::StatusOr<std::unique_ptr<MatrixLibrary>> library = MatrixLibrary::Create(options.exact);
  if (!library.ok()) return library.status();
  model->library_ = *std::move(library);
  absl::StatusOr<DeviceWeights> uploaded = UploadWeights(weights, options.shard);
  if (!uploaded.ok()) return uploaded.status();
  model->weights_ = *std::move(uploaded);
  if (absl::Status status = model->Allocate(); !status.ok()) return status;
  if (absl::Status status = model->MakeLinears(stream); !status.ok()) return status;
  return model;
}

absl::Status CudaModel::Allocate() {
  absl::Status status;
  const auto make = [&](uint64_t rows, uint64_t cols, size_t element, const char* what,
                        DeviceBuffer* out) {
    if (!status.ok()) return;
    absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Create(rows * cols * element, what);
    if (!buffer.ok()) {
      status = buffer.status();
      return;
    }
    *out = *std::move(buffer);
    // Rows beyond a batch's are read, whatever they hold, but they should hold something.
    const cudaError_t error = cudaMemset(out->data(), 0, out->size());
    if (error != cudaSuccess) status = CudaStatus(error, what);
  };
  const size_t element = SizeOf(dtype_);
  const uint64_t rows = LinearShape::PaddedRows(options_.max_rows);
  const uint64_t logits_rows = LinearShape::PaddedRows(std::min(options_.max_rows, kMaxLogitsRows));
  make(rows, config_.hidden_size, element, "the residual stream", &hidden_);
  make(rows, config_.hidden_size, element, "normed rows", &normed_);
  make(rows, config_.hidden_size, element, "block outputs", &delta_);
  make(rows, sizes_.q_size + 2 * sizes_.kv_size, element, "queries, keys, values", &qkv_);
  make(rows, config_.q_size(), element, "attention outputs", &attended_);
  make(rows, 2 * uint64_t{sizes_.intermediate_size}, element, "gate and up", &gate_up_);
  make(rows, config_.intermediate_size, element, "activations", &activated_);
  make(logits_rows, config_.hidden_size, element, "final rows", &final_);
  make(logits_rows, config_.vocab_size, sizeof(float), "logits", &logits_);
  make(rows, 1, sizeof(uint8_t), "faults", &faults_);
  make(std::max(1u, options_.max_parts), PartialFloats(sizes_.num_heads, config_.head_dim),
       sizeof(float), "attention's partial results", &partials_);
  make(std::max(1u, options_.max_parts), sizes_.num_kv_heads, sizeof(uint32_t),
       "attention's arrivals", &arrivals_);
  if (options_.group != nullptr) {
    const uint64_t widest =
        std::max({sizes_.q_size, sizes_.hidden_size, sizes_.intermediate_size}) * element;
    const uint64_t bytes = std::max(rows * widest, logits_rows * sizes_.vocab_part * sizeof(float));
    make(bytes, 1, 1, "a rank's part", &part_);
    make(bytes, options_.shard.size, 1, "all ranks' parts", &parts_);
  }
  if (!status.ok()) return status;

  RopeTables rope = ComputeRopeTables(config_.rope, config_.head_dim, options_.context_length);
  if (dtype_ == DType::kBF16) {
    for (float& value : rope.cos) value = FloatFromBf16(Bf16FromFloat(value));
    for (float& value : rope.sin) value = FloatFromBf16(Bf16FromFloat(value));
  }
  absl::StatusOr<DeviceBuffer> cos = UploadFloats(rope.cos, "RoPE's cosines");
  if (!cos.ok()) return cos.status();
  rope_cos_ = *std::move(cos);
  absl::StatusOr<DeviceBuffer> sin = UploadFloats(rope.sin, "RoPE's sines");
  if (!sin.ok()) return sin.status();
  rope_sin_ = *std::move(sin);

  const cudaError_t error = DecodeAttentionBlocks(AttentionOf(0, {}, {}), &attention_blocks_);
  return error == cudaSuccess ? absl::OkStatus() : CudaStatus(error, "decode attention");
}

absl::Status CudaModel::MakeLinears(cudaStream_t stream) {
  layers_.resize(config_.num_layers);
  // Products of one shape share the choice of algorithms, whichever layer they belong to.
  const auto make_all = [&](uint32_t n, uint32_t k, const void* DeviceLayer::*weights,
                            const void* DeviceLayer::*bias, DeviceBuffer& inputs,
                            const SkinnyPairing& pairing, Linear Layer::*linear) -> absl::Status {
    LinearShape::Spec spec;
    spec.dtype = dtype_;
    spec.n = n;
    spec.k = k;
    spec.has_bias = weights_.layers[0].*bias != nullptr;
    spec.max_rows = options_.max_rows;
    LinearShape::Trial trial;
    for (uint32_t i = 0; i < std::min(kTrialLayers, config_.num_layers); ++i) {
      trial.weights.push_back(weights_.layers[i].*weights);
    }
    trial.bias = weights_.layers[0].*bias;
    trial.inputs = inputs.data();
    // What turns heads and stores them moves as much as what multiplies gates and ups.
    if (!options_.exact && pairing.half > 0) {
      trial.follow_up = [this, n](uint32_t rows, cudaStream_t on) {
        SiluMulArgs args;
        args.dtype = dtype_;
        args.num_rows = rows;
        args.size = std::min(n / 2, config_.intermediate_size);
        args.gate_up = gate_up_.data();
        args.out = activated_.data();
        return SiluMul(args, on);
      };
    }
    auto shape = LinearShape::Create(*library_, spec, trial, stream);
    if (!shape.ok()) return shape.status();
    num_tried_algorithms_ += (*shape)->num_tried();
    num_exact_algorithms_ += (*shape)->num_exact();
    for (uint32_t i = 0; i < config_.num_layers; ++i) {
      auto made = Linear::Create(*shape, weights_.layers[i].*weights, weights_.layers[i].*bias,
                                 inputs.data(), pairing);
      if (!made.ok()) return made.status();
      layers_[i].*linear = *std::move(made);
    }
    return absl::OkStatus();
  };
  // Heads' halves turn against each other, gates meet their ups; a norm of heads would need all of
  // a head.
  SkinnyPairing heads;
  if (!config_.qk_norm) {
    heads.half = config_.head_dim / 2;
    heads.num_groups = sizes_.num_heads + 2 * sizes_.num_kv_heads;
  }
  SkinnyPairing gates;
  gates.half = sizes_.intermediate_size;
  absl::Status status =
      make_all(sizes_.q_size + 2 * sizes_.kv_size, config_.hidden_size, &DeviceLayer::qkv,
               &DeviceLayer::qkv_bias, normed_, heads, &Layer::qkv);
  if (!status.ok()) return status;
  status = make_all(sizes_.hidden_size, config_.q_size(), &DeviceLayer::o, &DeviceLayer::o_bias,
                    attended_, {}, &Layer::o);
  if (!status.ok()) return status;
  status = make_all(2 * sizes_.intermediate_size, config_.hidden_size, &DeviceLayer::gate_up,
                    &DeviceLayer::gate_up_bias, normed_, gates, &Layer::gate_up);
  if (!status.ok()) return status;
  status = make_all(sizes_.hidden_size, config_.intermediate_size, &DeviceLayer::down,
                    &DeviceLayer::down_bias, activated_, {}, &Layer::down);
  if (!status.ok()) return status;

  LinearShape::Spec spec;
  spec.dtype = dtype_;
  spec.n = sizes_.vocab_size;
  spec.k = config_.hidden_size;
  spec.fp32_output = true;
  spec.max_rows = std::min(options_.max_rows, kMaxLogitsRows);
  LinearShape::Trial trial;
  trial.weights = {weights_.lm_head};
  trial.inputs = final_.data();
  auto shape = LinearShape::Create(*library_, spec, trial, stream);
  if (!shape.ok()) return shape.status();
  num_tried_algorithms_ += (*shape)->num_tried();
  num_exact_algorithms_ += (*shape)->num_exact();
  auto made = Linear::Create(*std::move(shape), weights_.lm_head, nullptr, final_.data(), {});
  if (!made.ok()) return made.status();
  lm_head_ = *std::move(made);
  return absl::OkStatus();
}

uint64_t CudaModel::kv_bytes_per_block() const {
  return uint64_t{2} * config_.num_layers * sizes_.kv_size * SizeOf(dtype_) * options_.block_size;
}

absl::Status CudaModel::AllocateKv(uint32_t num_blocks) {
  absl::StatusOr<DeviceBuffer> kv =
      DeviceBuffer::Create(kv_bytes_per_block() * num_blocks, "the KV pool");
  if (!kv.ok()) return kv.status();
  kv_ = *std::move(kv);
  num_blocks_ = num_blocks;
  return absl::OkStatus();
}

void* CudaModel::layer_kv(uint32_t layer) const {
  const uint64_t bytes = kv_bytes_per_block() / config_.num_layers * num_blocks_;
  return static_cast<uint8_t*>(kv_.data()) + layer * bytes;
}

uint64_t CudaModel::scratch_bytes() const {
  uint64_t sum = library_->workspace_bytes();
  for (const DeviceBuffer* buffer :
       {&hidden_, &normed_, &delta_, &qkv_, &attended_, &gate_up_, &activated_, &final_, &logits_,
        &faults_, &rope_cos_, &rope_sin_, &partials_, &arrivals_, &part_, &parts_}) {
    sum += buffer->size();
  }
  return sum;
}

AttentionArgs CudaModel::AttentionOf(uint32_t layer, const ForwardBatch& batch,
                                     const SlotPointers& slots) const {
  AttentionArgs args;
  args.dtype = dtype_;
  args.num_heads = sizes_.num_heads;
  args.num_kv_heads = sizes_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.block_size = options_.block_size;
  args.sliding_window = config_.sliding_window.value_or(0);
  args.exact = options_.exact;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  args.queries = qkv_.data();
  args.query_stride = sizes_.q_size + 2 * sizes_.kv_size;
  args.outputs = PartOf(attended_);
  args.kv = kv_.data() == nullptr ? nullptr : layer_kv(layer);
  args.row_slots = batch.row_slots;
  args.row_positions = batch.row_positions;
  args.block_tables = slots.block_tables;
  args.table_stride = slots.table_stride;
  args.partials = static_cast<float*>(partials_.data());
  args.arrivals = static_cast<uint32_t*>(arrivals_.data());
  return args;
}

void* CudaModel::PartOf(const DeviceBuffer& whole) const {
  return options_.group == nullptr ? whole.data() : part_.data();
}

cudaError_t CudaModel::CompleteRows(uint32_t num_rows, uint32_t part, uint32_t width, DType dtype,
                                    const DeviceBuffer& whole, cudaStream_t stream) {
  if (options_.group == nullptr) return cudaSuccess;
  const cudaError_t error =
      options_.group->AllGather(options_.shard.rank, part_.data(),
                                size_t{num_rows} * part * SizeOf(dtype), parts_.data(), stream);
  if (error != cudaSuccess) return error;
  JoinPartsArgs args;
  args.dtype = dtype;
  args.num_rows = num_rows;
  args.width = width;
  args.part = part;
  args.parts = parts_.data();
  args.out = whole.data();
  return JoinParts(args, stream);
}

cudaError_t CudaModel::AddAndNorm(uint32_t num_rows, bool adds, const void* weight, uint8_t stage,
                                  cudaStream_t stream) {
  AddNormArgs args;
  args.dtype = dtype_;
  args.num_rows = num_rows;
  args.hidden_size = config_.hidden_size;
  args.eps = config_.rms_norm_eps;
  args.hidden = hidden_.data();
  args.delta = adds ? delta_.data() : nullptr;
  args.weight = weight;
  args.normed = normed_.data();
  args.faults = static_cast<uint8_t*>(faults_.data());
  args.stage = stage;
  return AddNorm(args, stream);
}

RotateStoreArgs CudaModel::RotateStoreOf(uint32_t layer, const ForwardBatch& batch,
                                         const SlotPointers& slots) const {
  RotateStoreArgs args;
  args.dtype = dtype_;
  args.num_rows = batch.num_rows;
  args.num_heads = sizes_.num_heads;
  args.num_kv_heads = sizes_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.block_size = options_.block_size;
  args.eps = config_.rms_norm_eps;
  args.qkv = qkv_.data();
  args.q_norm = weights_.layers[layer].q_norm;
  args.k_norm = weights_.layers[layer].k_norm;
  args.cos = static_cast<const float*>(rope_cos_.data());
  args.sin = static_cast<const float*>(rope_sin_.data());
  args.row_slots = batch.row_slots;
  args.row_positions = batch.row_positions;
  args.block_tables = slots.block_tables;
  args.table_stride = slots.table_stride;
  args.kv = layer_kv(layer);
  return args;
}

// For few rows the products do along with them what for many are kernels of their own.
cudaError_t CudaModel::ForwardLayer(uint32_t layer, const ForwardBatch& batch,
                                    const SlotPointers& slots, cudaStream_t stream) {
  const DeviceLayer& weights = weights_.layers[layer];
  const Layer& linear = layers_[layer];
  const uint32_t rows = batch.num_rows;
  // Whether the products themselves add what the attention, and the MLP, add to the residual
  // stream: a rank's are a part of it only.
  const bool is_alone = options_.group == nullptr;
  const bool o_adds = is_alone && linear.o.IsSkinny(rows);
  const bool down_adds = is_alone && linear.down.IsSkinny(rows);
  const uint32_t hidden_size = config_.hidden_size;
  cudaError_t error = cudaSuccess;
  const auto then = [&error](auto step) {
    if (error == cudaSuccess) error = step();
  };
  // The first norm sees the embeddings, the others what the layer before added.
  then([&] {
    return AddAndNorm(rows, layer > 0 && !down_adds, weights.input_norm,
                      Stage(layer > 0 ? NumericFault::kMlp : NumericFault::kEmbedding), stream);
  });
  const RotateStoreArgs rotate = RotateStoreOf(layer, batch, slots);
  if (linear.qkv.IsSkinny(rows) && linear.qkv.is_paired()) {
    then([&] { return linear.qkv.RunRotateStore(rotate, stream); });
  } else {
    then([&] { return linear.qkv.Run(rows, qkv_.data(), stream); });
    then([&] { return RotateStore(rotate, stream); });
  }
  const AttentionArgs attention = AttentionOf(layer, batch, slots);
  if (batch.max_decode_items > 0) {
    const uint32_t blocks = static_cast<uint32_t>(std::min<uint64_t>(
        attention_blocks_, uint64_t{batch.max_decode_items} * sizes_.num_kv_heads));
    then([&] {
      return DecodeAttention(attention, batch.decode_items, batch.num_decode_items, blocks, stream);
    });
  }
  if (batch.num_prefill_tiles > 0) {
    then([&] {
      return PrefillAttention(attention, batch.prefill_tiles, batch.num_prefill_tiles, stream);
    });
  }
  then([&] {
    return CompleteRows(rows, sizes_.q_size, config_.q_size(), dtype_, attended_, stream);
  });
  if (o_adds) {
    then([&] { return linear.o.RunAdd(rows, hidden_.data(), stream); });
  } else {
    then([&] { return linear.o.Run(rows, PartOf(delta_), stream); });
    then([&] {
      return CompleteRows(rows, sizes_.hidden_size, hidden_size, dtype_, delta_, stream);
    });
  }
  then([&] {
    return AddAndNorm(rows, !o_adds, weights.post_attention_norm, Stage(NumericFault::kAttention),
                      stream);
  });
  if (linear.gate_up.IsSkinny(rows) && linear.gate_up.is_paired()) {
    then([&] { return linear.gate_up.RunSiluMul(rows, PartOf(activated_), stream); });
  } else {
    SiluMulArgs args;
    args.dtype = dtype_;
    args.num_rows = rows;
    args.size = sizes_.intermediate_size;
    args.gate_up = gate_up_.data();
    args.out = PartOf(activated_);
    then([&] { return linear.gate_up.Run(rows, gate_up_.data(), stream); });
    then([&] { return SiluMul(args, stream); });
  }
  then([&] {
    return CompleteRows(rows, sizes_.intermediate_size, config_.intermediate_size, dtype_,
                        activated_, stream);
  });
  if (down_adds) {
    then([&] { return linear.down.RunAdd(rows, hidden_.data(), stream); });
  } else {
    then([&] { return linear.down.Run(rows, PartOf(delta_), stream); });
    then([&] {
      return CompleteRows(rows, sizes_.hidden_size, hidden_size, dtype_, delta_, stream);
    });
  }
  delta_is_left_ = !down_adds;
  return error;
}

cudaError_t CudaModel::Forward(const ForwardBatch& batch, const SlotPointers& slots,
                               cudaStream_t stream) {
  QUIRE_CHECK(batch.num_rows <= LinearShape::PaddedRows(options_.max_rows));
  EmbedArgs embed;
  embed.dtype = dtype_;
  embed.num_rows = batch.num_rows;
  embed.hidden_size = config_.hidden_size;
  embed.embedding = weights_.embedding;
  embed.row_tokens = batch.row_tokens;
  embed.row_slots = batch.row_slots;
  embed.last_tokens = slots.last_tokens;
  embed.hidden = hidden_.data();
  embed.faults = static_cast<uint8_t*>(faults_.data());
  cudaError_t error = Embed(embed, stream);
  for (uint32_t layer = 0; layer < config_.num_layers && error == cudaSuccess; ++layer) {
    error = ForwardLayer(layer, batch, slots, stream);
  }
  return error;
}

cudaError_t CudaModel::Logits(const int32_t* rows, uint32_t count, cudaStream_t stream) {
  QUIRE_CHECK(count <= kMaxLogitsRows);
  AddNormArgs args;
  args.dtype = dtype_;
  args.num_rows = count;
  args.hidden_size = config_.hidden_size;
  args.eps = config_.rms_norm_eps;
  args.hidden = hidden_.data();
  args.delta = delta_is_left_ ? delta_.data() : nullptr;
  args.weight = weights_.final_norm;
  args.rows = rows;
  args.normed = final_.data();
  args.faults = static_cast<uint8_t*>(faults_.data());
  args.stage = Stage(NumericFault::kMlp);
  cudaError_t error = AddNorm(args, stream);
  if (error == cudaSuccess) error = lm_head_.Run(count, PartOf(logits_), stream);
  if (error != cudaSuccess) return error;
  return CompleteRows(count, sizes_.vocab_part, config_.vocab_size, DType::kF32, logits_, stream);
}

}  // namespace quire::cuda
