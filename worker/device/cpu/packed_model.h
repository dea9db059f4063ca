#ifndef QUIRE_WORKER_DEVICE_CPU_PACKED_MODEL_H_
#define QUIRE_WORKER_DEVICE_CPU_PACKED_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/cpu/gemm/packed_weights.h"
#include "worker/device/cpu/gemm/thread_pool.h"
#include "worker/model/model_shard.h"
#include "worker/model/weights.h"

namespace quire {

// A layer's weights as the CPU computes with them: projections that read the same input are one
// matrix. T is float or Bf16. Of a rank of several, outputs are its own: ShardSizes
// (model_shard.h).
template <typename T>
struct PackedLayer {
  std::vector<T> input_norm;           // [hidden]
  PackedWeights qkv;                   // [q_size + 2 · kv_size, hidden]
  std::vector<float> qkv_bias;         // [q_size + 2 · kv_size], or empty
  std::vector<T> q_norm, k_norm;       // [head_dim], or empty
  PackedWeights o;                     // [hidden, q_size]
  std::vector<float> o_bias;           // [hidden], or empty
  std::vector<T> post_attention_norm;  // [hidden]
  PackedWeights gate_up;               // [2 · intermediate, hidden]: gate, then up
  std::vector<float> gate_up_bias;     // [2 · intermediate], or empty
  PackedWeights down;                  // [hidden, intermediate]
  std::vector<float> down_bias;        // [hidden], or empty
};

template <typename T>
struct PackedModel {
  std::vector<PackedLayer<T>> layers;
  std::vector<T> final_norm;  // [hidden]
  PackedWeights lm_head;      // [vocabulary, hidden]
  // The embedding as it was loaded, kept alive by `weights`; null when it is lm_head's matrix,
  // whole.
  std::shared_ptr<const Weights> weights;
  const T* embedding = nullptr;  // [vocabulary, hidden]

  void CopyEmbedding(uint32_t token, int64_t hidden_size, T* out) const;
  uint64_t bytes() const;  // of all packed matrices
};

// Packs a rank's part with all threads of the pool. RESOURCE_EXHAUSTED: memory. REQUIRES: the
// weights' dtype is T's.
template <typename T>
absl::StatusOr<PackedModel<T>> PackModel(std::shared_ptr<const Weights> weights,
                                         const TensorShard& shard, ThreadPool& pool);

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_PACKED_MODEL_H_
