#ifndef QUIRE_WORKER_DEVICE_CUDA_DEVICE_WEIGHTS_H_
#define QUIRE_WORKER_DEVICE_CUDA_DEVICE_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/model/model_shard.h"
#include "worker/model/weights.h"

namespace quire::cuda {

// A layer's tensors on the device, in the compute dtype. Projections that read the same input are
// one matrix: queries, keys and values; gate and up. A null pointer stands for a tensor that the
// model does not have. Of a rank of several, rows are its own: ShardSizes (model_shard.h).
struct DeviceLayer {
  const void* input_norm = nullptr;           // [hidden]
  const void* qkv = nullptr;                  // [q_size + 2 kv_size, hidden]
  const void* qkv_bias = nullptr;             // [q_size + 2 kv_size]
  const void* q_norm = nullptr;               // [head_dim]
  const void* k_norm = nullptr;               // [head_dim]
  const void* o = nullptr;                    // [hidden, q_size]
  const void* o_bias = nullptr;               // [hidden]
  const void* post_attention_norm = nullptr;  // [hidden]
  const void* gate_up = nullptr;              // [2 intermediate, hidden]
  const void* gate_up_bias = nullptr;         // [2 intermediate]
  const void* down = nullptr;                 // [hidden, intermediate]
  const void* down_bias = nullptr;            // [hidden]
};

// A model's tensors on the device, in one allocation.
struct DeviceWeights {
  DeviceBuffer memory;
  const void* embedding = nullptr;  // [vocabulary, hidden]
  std::vector<DeviceLayer> layers;
  const void* final_norm = nullptr;  // [hidden]
  const void* lm_head = nullptr;     // [vocabulary, hidden]; in the embedding where they are tied
};

// Copies a rank's part of the weights to the current device. RESOURCE_EXHAUSTED: memory.
absl::StatusOr<DeviceWeights> UploadWeights(const Weights& weights, const TensorShard& shard);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_DEVICE_WEIGHTS_H_
