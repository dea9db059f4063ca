#include "worker/device/cpu/cpu_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/device/cpu/gemm/aligned_buffer.h"
#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/packed_model.h"
#include "worker/model/rope.h"

namespace quire {
namespace {

// Rows whose logits are held at once: more need the output layer's weights read again.
constexpr uint32_t kMaxLogitsRows = 64;
// Heads of a rotation or a cache write that are worth a thread's claim.
constexpr int64_t kMinHeads = 8;

// A matrix of scratch, rows padded to none: [rows, cols].
template <typename T>
class Scratch {
 public:
  static absl::StatusOr<Scratch> Create(uint64_t rows, uint64_t cols) {
    absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(rows * cols * sizeof(T));
    if (!buffer.ok()) return buffer.status();
    return Scratch(*std::move(buffer), cols);
  }
  Scratch() = default;

  T* row(uint64_t index) const { return data() + index * cols_; }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
  uint64_t cols() const { return cols_; }

 private:
  Scratch(AlignedBuffer buffer, uint64_t cols) : buffer_(std::move(buffer)), cols_(cols) {}

  AlignedBuffer buffer_;
  uint64_t cols_ = 0;
};

template <typename T>
class TypedCpuModel : public CpuModel {
 public:
  TypedCpuModel(const Options& options, const ModelConfig& config, PackedModel<T> model)
      : CpuModel(options, config),
        kernels_(KernelsOf<T>(KernelsFor(options.isa))),
        model_(std::move(model)),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)))),
        rope_(ComputeRopeTables(config.rope, config.head_dim, options.context_length)) {
    if constexpr (std::is_same_v<T, Bf16>) {
      for (float& value : rope_.cos) value = ToFloat(ToBf16(value));
      for (float& value : rope_.sin) value = ToFloat(ToBf16(value));
    }
  }

  absl::Status Allocate() {
    absl::Status status;
    const auto make = [&](uint64_t rows, uint64_t cols, auto* out) {
      auto scratch = std::decay_t<decltype(*out)>::Create(rows, cols);
      if (scratch.ok()) {
        *out = *std::move(scratch);
      } else {
        status.Update(scratch.status());
      }
    };
    const uint64_t rows = options_.max_rows;
    const uint64_t logits_rows = std::min(options_.max_rows, kMaxLogitsRows);
    make(rows, config_.hidden_size, &hidden_);
    make(rows, config_.hidden_size, &normed_);
    make(rows, config_.hidden_size, &delta_);
    make(rows, sizes_.q_size + 2 * sizes_.kv_size, &qkv_);
    make(rows, config_.q_size(), &attended_);
    make(rows, 2 * sizes_.intermediate_size, &gate_up_);
    make(rows, config_.intermediate_size, &activated_);
    make(logits_rows, uint64_t{sizes_.vocab_part} * options_.shard.size, &logits_);
    return status;
  }

  uint64_t weight_bytes() const override { return model_.bytes(); }

  bool Forward(ThreadContext& context, const ForwardBatch& batch, const KvStore& kv,
               LogitsSink sink) override {
    Embed(context, batch);
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      const PackedLayer<T>& weights = model_.layers[layer];
      // The first norm sees the embeddings, the others what the layer before added.
      context.Barrier();
      AddAndNorm(context, batch.num_rows, layer > 0, weights.input_norm,
                 layer > 0 ? NumericFault::kMlp : NumericFault::kEmbedding);
      context.Barrier();
      Linear(context, batch.num_rows, normed_, weights.qkv, weights.qkv_bias, qkv_, 0);
      context.Barrier();
      RotateAndStore(context, batch, layer, kv);
      context.Barrier();
      Attend(context, batch, layer, kv);
      if (!Complete(context, batch.num_rows, attended_, sizes_.q_size)) return false;
      Linear(context, batch.num_rows, attended_, weights.o, weights.o_bias, delta_,
             FirstOf(sizes_.hidden_size));
      if (!Complete(context, batch.num_rows, delta_, sizes_.hidden_size)) return false;
      AddAndNorm(context, batch.num_rows, true, weights.post_attention_norm,
                 NumericFault::kAttention);
      context.Barrier();
      Linear(context, batch.num_rows, normed_, weights.gate_up, weights.gate_up_bias, gate_up_, 0);
      context.Barrier();
      Activate(context, batch.num_rows);
      if (!Complete(context, batch.num_rows, activated_, sizes_.intermediate_size)) return false;
      Linear(context, batch.num_rows, activated_, weights.down, weights.down_bias, delta_,
             FirstOf(sizes_.hidden_size));
      if (!Complete(context, batch.num_rows, delta_, sizes_.hidden_size)) return false;
    }
    return Logits(context, batch, sink);
  }

 private:
  void Embed(ThreadContext& context, const ForwardBatch& batch) {
    context.ForEachChunk(batch.num_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const ForwardRun& run = batch.runs[run_of_row_[row]];
        model_.CopyEmbedding(run.tokens[row - run.first_row], config_.hidden_size,
                             hidden_.row(row));
      }
    });
  }

  // Where this rank's part of a row begins whose parts have `part` elements.
  uint32_t FirstOf(uint32_t part) const { return options_.shard.rank * part; }

  // Waits until the rows are written, and has the other ranks' parts of them. False: the group was
  // aborted.
  template <typename E>
  bool Complete(ThreadContext& context, uint32_t num_rows, const Scratch<E>& rows, uint32_t part) {
    if (options_.shard.size == 1) {
      context.Barrier();
      return true;
    }
    return options_.group->Gather(
        context, options_.shard.rank,
        {reinterpret_cast<std::byte*>(rows.data()), num_rows, part * sizeof(E)});
  }

  // The products become the columns of y from `first` on.
  void Linear(ThreadContext& context, uint32_t num_rows, const Scratch<T>& x,
              const PackedWeights& weights, const std::vector<float>& bias, const Scratch<T>& y,
              uint32_t first) {
    GemmOptions options;
    if (!bias.empty()) options.bias = bias.data();
    options.y_stride = static_cast<int64_t>(y.cols());
    Gemm(context, options_.isa, num_rows, x.data(), weights, y.data() + first, options);
  }

  // hidden += delta, if asked; normed = norm(hidden).
  void AddAndNormRow(int64_t row, bool adds, const std::vector<T>& weight, NumericFault stage,
                     T* normed) {
    const int size = static_cast<int>(config_.hidden_size);
    if (adds) kernels_.add(hidden_.row(row), delta_.row(row), size);
    const bool finite =
        kernels_.rms_norm(hidden_.row(row), weight.data(), config_.rms_norm_eps, size, normed);
    if (!finite && faults_[row] == NumericFault::kNone) faults_[row] = stage;
  }
  void AddAndNorm(ThreadContext& context, uint32_t num_rows, bool adds,
                  const std::vector<T>& weight, NumericFault stage) {
    context.ForEachChunk(num_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        AddAndNormRow(row, adds, weight, stage, normed_.row(row));
      }
    });
  }

  // Queries and keys: norm of each head where the model has it, then RoPE; keys and values go into
  // their blocks.
  void RotateAndStore(ThreadContext& context, const ForwardBatch& batch, uint32_t layer,
                      const KvStore& kv) {
    const int64_t num_heads = sizes_.num_heads + sizes_.num_kv_heads;
    context.ForEachChunk(batch.num_rows * num_heads, kMinHeads, [&](int64_t begin, int64_t end) {
      int64_t row = begin / num_heads;
      uint32_t head = static_cast<uint32_t>(begin % num_heads);
      for (int64_t item = begin; item < end; ++item) {
        RotateHead(batch, layer, row, head, kv);
        if (++head == num_heads) {
          head = 0;
          ++row;
        }
      }
    });
  }

  void RotateHead(const ForwardBatch& batch, uint32_t layer, int64_t row, uint32_t head,
                  const KvStore& kv) {
    const PackedLayer<T>& weights = model_.layers[layer];
    const int head_dim = static_cast<int>(config_.head_dim);
    const ForwardRun& run = batch.runs[run_of_row_[row]];
    const uint32_t position = run.first_position + static_cast<uint32_t>(row - run.first_row);
    const bool is_key = head >= sizes_.num_heads;
    T* data = qkv_.row(row) + static_cast<size_t>(head) * head_dim;
    const std::vector<T>& norm = is_key ? weights.k_norm : weights.q_norm;
    if (!norm.empty()) {
      kernels_.rms_norm(data, norm.data(), config_.rms_norm_eps, head_dim, data);
    }
    const size_t angles = static_cast<size_t>(position) * rope_.half;
    kernels_.rope(data, rope_.cos.data() + angles, rope_.sin.data() + angles,
                  static_cast<int>(rope_.half));
    if (!is_key) return;

    const uint32_t kv_head = head - sizes_.num_heads;
    const uint32_t block_size = kv.geometry().block_size;
    const size_t block = run.blocks[position / block_size] * kv.block_stride();
    const uint32_t offset = position % block_size;
    kernels_.store_key(data, head_dim, block_size, offset, kv.keys<T>(layer, kv_head) + block);
    const T* value = data + sizes_.kv_size;
    std::copy_n(value, head_dim,
                kv.values<T>(layer, kv_head) + block + static_cast<size_t>(offset) * head_dim);
  }

  void Attend(ThreadContext& context, const ForwardBatch& batch, uint32_t layer,
              const KvStore& kv) {
    const uint32_t group = config_.num_heads / config_.num_kv_heads;
    const uint32_t tiles_per_group = (group + heads_per_tile_ - 1) / heads_per_tile_;
    const int64_t tiles_per_unit = static_cast<int64_t>(sizes_.num_kv_heads) * tiles_per_group;
    context.ForEachChunk(
        static_cast<int64_t>(units_.size()) * tiles_per_unit, 1, [&](int64_t begin, int64_t end) {
          for (int64_t item = begin; item < end; ++item) {
            const AttentionUnit& unit = units_[item / tiles_per_unit];
            const uint32_t tile = static_cast<uint32_t>(item % tiles_per_unit);
            const uint32_t kv_head = tile / tiles_per_group;
            const uint32_t first = tile % tiles_per_group * heads_per_tile_;
            AttendTile(batch.runs[unit.run], unit, layer, kv, kv_head, kv_head * group + first,
                       std::min(heads_per_tile_, group - first));
          }
        });
  }

  void AttendTile(const ForwardRun& run, const AttentionUnit& unit, uint32_t layer,
                  const KvStore& kv, uint32_t kv_head, uint32_t first_head, uint32_t num_heads) {
    AttentionTile<T> tile;
    tile.head_dim = static_cast<int>(config_.head_dim);
    tile.scale = scale_;
    tile.blocks = run.blocks;
    tile.block_size = kv.geometry().block_size;
    tile.keys = kv.keys<T>(layer, kv_head);
    tile.values = kv.values<T>(layer, kv_head);
    tile.block_stride = kv.block_stride();
    for (uint32_t i = 0; i < unit.count; ++i) {
      const uint32_t row = run.first_row + unit.first + i;
      const uint32_t position = run.first_position + unit.first + i;
      for (uint32_t head = first_head; head < first_head + num_heads; ++head) {
        const int r = tile.num_rows++;
        tile.queries[r] = qkv_.row(row) + static_cast<size_t>(head) * config_.head_dim;
        tile.outputs[r] = attended_.row(row) + FirstOf(sizes_.q_size) +
                          static_cast<size_t>(head) * config_.head_dim;
        tile.end_key[r] = position + 1;
        const uint32_t window = config_.sliding_window.value_or(tile.end_key[r]);
        tile.first_key[r] = tile.end_key[r] > window ? tile.end_key[r] - window : 0;
      }
    }
    kernels_.attention(tile);
  }

  void Activate(ThreadContext& context, uint32_t num_rows) {
    const int size = static_cast<int>(sizes_.intermediate_size);
    context.ForEachChunk(num_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        kernels_.silu_mul(gate_up_.row(row), gate_up_.row(row) + size, size,
                          activated_.row(row) + FirstOf(sizes_.intermediate_size));
      }
    });
  }

  bool Logits(ThreadContext& context, const ForwardBatch& batch, LogitsSink sink) {
    const uint32_t total = static_cast<uint32_t>(batch.logits_rows.size());
    for (uint32_t first = 0; first < total; first += kMaxLogitsRows) {
      const uint32_t count = std::min(kMaxLogitsRows, total - first);
      context.ForEachChunk(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          AddAndNormRow(batch.logits_rows[first + i], true, model_.final_norm, NumericFault::kMlp,
                        normed_.row(i));
        }
      });
      context.Barrier();
      GemmOptions options;
      options.y_stride = static_cast<int64_t>(logits_.cols());
      Gemm(context, options_.isa, count, normed_.data(), model_.lm_head,
           logits_.data() + FirstOf(sizes_.vocab_part), options);
      if (!Complete(context, count, logits_, sizes_.vocab_part)) return false;
      context.ForEachChunk(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          sink(context, first + static_cast<uint32_t>(i), logits_.row(i));
        }
      });
      context.Barrier();
    }
    return true;
  }

  const TypedKernels<T>& kernels_;
  const PackedModel<T> model_;
  const float scale_;
  RopeTables rope_;
  Scratch<T> hidden_;  // the residual stream
  Scratch<T> normed_;  // input of the next linear layer
  Scratch<T> delta_;   // what a block adds to the residual stream
  Scratch<T> qkv_;
  Scratch<T> attended_;
  Scratch<T> gate_up_;
  Scratch<T> activated_;
  Scratch<float> logits_;
};

template <typename T>
absl::StatusOr<std::unique_ptr<CpuModel>> CreateTyped(const CpuModel::Options& options,
                                                      std::shared_ptr<const Weights> weights,
                                                      ThreadPool& pool) {
  const ModelConfig config = weights->config();
  absl::StatusOr<PackedModel<T>> packed = PackModel<T>(std::move(weights), options.shard, pool);
  if (!packed.ok()) return packed.status();
  auto model = std::make_unique<TypedCpuModel<T>>(options, config, *std::move(packed));
  if (absl::Status status = model->Allocate(); !status.ok()) return status;
  return model;
}

}  // namespace

CpuModel::CpuModel(const Options& options, const ModelConfig& config)
    : options_(options), config_(config), sizes_(SizesOf(config, options.shard)) {
  const uint32_t group = config.num_heads / config.num_kv_heads;
  heads_per_tile_ = std::min<uint32_t>(group, kAttentionRows);
  positions_per_tile_ = kAttentionRows / heads_per_tile_;
  run_of_row_.reserve(options.max_rows);
  units_.reserve(options.max_rows);
  faults_.reserve(options.max_rows);
}

absl::StatusOr<std::unique_ptr<CpuModel>> CpuModel::Create(const Options& options,
                                                           std::shared_ptr<const Weights> weights,
                                                           ThreadPool& pool) {
  switch (weights->dtype()) {
    case DType::kF32:
      return CreateTyped<float>(options, std::move(weights), pool);
    case DType::kBF16:
      return CreateTyped<Bf16>(options, std::move(weights), pool);
    case DType::kF16:
      break;
  }
  return absl::UnimplementedError(
      absl::StrCat("dtype ", std::string(DTypeName(weights->dtype())),
                   ": the CPU executor computes in float32 or bfloat16"));
}

void CpuModel::Prepare(const ForwardBatch& batch) {
  QUIRE_CHECK(batch.num_rows <= options_.max_rows);
  run_of_row_.clear();
  units_.clear();
  for (uint32_t run = 0; run < batch.runs.size(); ++run) {
    const uint32_t num_rows = batch.runs[run].num_rows;
    run_of_row_.insert(run_of_row_.end(), num_rows, run);
    for (uint32_t first = 0; first < num_rows; first += positions_per_tile_) {
      units_.push_back({run, first, std::min(positions_per_tile_, num_rows - first)});
    }
  }
  QUIRE_CHECK(run_of_row_.size() == batch.num_rows);
  faults_.assign(batch.num_rows, NumericFault::kNone);
}

}  // namespace quire
