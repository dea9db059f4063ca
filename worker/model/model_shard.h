#ifndef QUIRE_WORKER_MODEL_MODEL_SHARD_H_
#define QUIRE_WORKER_MODEL_MODEL_SHARD_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

// What one rank of a tensor-parallel group computes of a model.
//
// Every projection is cut along its outputs, never along its inputs: a rank has whole rows of each
// weight matrix, so an output is the same sum in the same order as on one device, and a group of
// any size gives the bits of a single rank. What a product needs of other ranks' outputs is
// gathered before it. docs/adr/0005-ranks-cut-outputs.md has why, and what it costs.
namespace quire {

// REQUIRES: rank < size.
struct TensorShard {
  uint32_t rank = 0;
  uint32_t size = 1;
};

// The sizes of a rank's outputs. A dimension is cut into equal parts, but for the vocabulary, whose
// last part may be shorter.
struct ShardSizes {
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t q_size = 0;             // num_heads * head_dim
  uint32_t kv_size = 0;            // num_kv_heads * head_dim
  uint32_t hidden_size = 0;        // of the attention's and the MLP's output projections
  uint32_t intermediate_size = 0;  // of gate and up, each
  uint32_t vocab_size = 0;         // of the logits
  uint32_t vocab_part = 0;  // every rank's but the last's; rank r's logits begin at r times it
};

// INVALID_ARGUMENT: `size` ranks cannot share the model; names the config's field. Heads must come
// out even, and rows of activations are cut at multiples of 16 elements.
absl::Status CheckShards(const ModelConfig& config, uint32_t size);

// REQUIRES: CheckShards(config, shard.size) is OK.
ShardSizes SizesOf(const ModelConfig& config, const TensorShard& shard);

// A rank's rows of the weights; norms and the embedding are whole. Views live as long as the
// weights. A tied lm_head is a part of the embedding.
struct ShardWeights {
  WeightView embedding;              // [vocabulary, hidden]
  std::vector<LayerWeights> layers;  // rows by ShardSizes, all columns
  WeightView final_norm;             // [hidden]
  WeightView lm_head;                // [sizes.vocab_size, hidden]
  bool has_tied_lm_head = false;
};

// REQUIRES: CheckShards(weights.config(), shard.size) is OK.
ShardWeights SliceWeights(const Weights& weights, const TensorShard& shard);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_MODEL_SHARD_H_
