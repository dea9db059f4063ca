#include "worker/model/model_shard.h"

#include <algorithm>
#include <cstddef>

#include "worker/model/str_cat.h"

namespace quire {
namespace {

// What every part of a row of activations is a multiple of: kernels read whole vectors.
constexpr uint32_t kPartAlignment = 16;

uint32_t VocabPart(const ModelConfig& config, uint32_t size) {
  if (size == 1) return config.vocab_size;
  const uint32_t even = (config.vocab_size + size - 1) / size;
  return (even + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

WeightView Rows(const WeightView& whole, uint64_t first, uint64_t count) {
  WeightView part = whole;
  part.rows = count;
  part.data = static_cast<const std::byte*>(whole.data) + first * whole.cols * SizeOf(whole.dtype);
  return part;
}

WeightView EvenRows(const WeightView& whole, const TensorShard& shard) {
  if (!whole) return whole;
  const uint64_t count = whole.rows / shard.size;
  return Rows(whole, shard.rank * count, count);
}

LayerWeights SliceLayer(const LayerWeights& whole, const TensorShard& shard) {
  LayerWeights part = whole;
  for (WeightView LayerWeights::*const view :
       {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v, &LayerWeights::q_bias,
        &LayerWeights::k_bias, &LayerWeights::v_bias, &LayerWeights::o, &LayerWeights::o_bias,
        &LayerWeights::gate, &LayerWeights::up, &LayerWeights::gate_bias, &LayerWeights::up_bias,
        &LayerWeights::down, &LayerWeights::down_bias}) {
    part.*view = EvenRows(whole.*view, shard);
  }
  return part;
}

}  // namespace

absl::Status CheckShards(const ModelConfig& config, uint32_t size) {
  struct Dimension {
    const char* field;
    uint32_t value;
    uint32_t alignment;
  };
  if (size == 0) return absl::InvalidArgumentError("tensor_parallel_size 0: at least 1");
  if (size == 1) return absl::OkStatus();
  for (const Dimension& dimension :
       {Dimension{"num_attention_heads", config.num_heads, 1},
        Dimension{"num_key_value_heads", config.num_kv_heads, 1},
        Dimension{"hidden_size", config.hidden_size, kPartAlignment},
        Dimension{"intermediate_size", config.intermediate_size, kPartAlignment}}) {
    const uint64_t wanted = uint64_t{size} * dimension.alignment;
    if (dimension.value % wanted == 0) continue;
    return absl::InvalidArgumentError(StrCat("tensor_parallel_size ", size, ": the model's ",
                                             dimension.field, ", ", dimension.value,
                                             ", is not a multiple of ", wanted));
  }
  if (uint64_t{size - 1} * VocabPart(config, size) >= config.vocab_size) {
    return absl::InvalidArgumentError(StrCat("tensor_parallel_size ", size,
                                             ": the model's vocab_size, ", config.vocab_size,
                                             ", is too small to be shared"));
  }
  return absl::OkStatus();
}

ShardSizes SizesOf(const ModelConfig& config, const TensorShard& shard) {
  const uint32_t size = shard.size;
  ShardSizes sizes;
  sizes.num_heads = config.num_heads / size;
  sizes.num_kv_heads = config.num_kv_heads / size;
  sizes.q_size = sizes.num_heads * config.head_dim;
  sizes.kv_size = sizes.num_kv_heads * config.head_dim;
  sizes.hidden_size = config.hidden_size / size;
  sizes.intermediate_size = config.intermediate_size / size;
  sizes.vocab_part = VocabPart(config, size);
  sizes.vocab_size = std::min(sizes.vocab_part, config.vocab_size - shard.rank * sizes.vocab_part);
  return sizes;
}

ShardWeights SliceWeights(const Weights& weights, const TensorShard& shard) {
  ShardWeights part;
  part.embedding = weights.embedding();
  for (const LayerWeights& layer : weights.layers()) {
    part.layers.push_back(SliceLayer(layer, shard));
  }
  part.final_norm = weights.final_norm();
  const ShardSizes sizes = SizesOf(weights.config(), shard);
  part.lm_head = Rows(weights.lm_head(), uint64_t{shard.rank} * sizes.vocab_part, sizes.vocab_size);
  part.has_tied_lm_head = weights.lm_head().data == weights.embedding().data;
  return part;
}

}  // namespace quire
