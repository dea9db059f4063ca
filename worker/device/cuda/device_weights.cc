#include "worker/device/cuda/device_weights.h"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <initializer_list>
#include <utility>

namespace quire::cuda {
namespace {

constexpr size_t kAlignment = 256;  // bytes: what every tensor starts at

// Lays tensors out one after the other. The same calls are made twice: to learn the size, and to
// copy.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<uint8_t*>(base)) {}

  // The parts stacked along their rows; null if the model has none of them.
  const void* Place(std::initializer_list<const WeightView*> parts) {
    if (!**parts.begin()) return nullptr;
    offset_ = (offset_ + kAlignment - 1) / kAlignment * kAlignment;
    const size_t begin = offset_;
    for (const WeightView* part : parts) {
      if (base_ != nullptr && error_ == cudaSuccess) {
        error_ = cudaMemcpy(base_ + offset_, part->data, part->num_bytes(), cudaMemcpyHostToDevice);
      }
      offset_ += part->num_bytes();
    }
    return base_ == nullptr ? nullptr : base_ + begin;
  }

  size_t size() const { return offset_; }
  cudaError_t error() const { return error_; }

 private:
  uint8_t* base_;
  size_t offset_ = 0;
  cudaError_t error_ = cudaSuccess;
};

void PlaceAll(const ShardWeights& weights, Arena& arena, DeviceWeights* out) {
  out->embedding = arena.Place({&weights.embedding});
  out->layers.clear();
  for (const LayerWeights& from : weights.layers) {
    DeviceLayer& to = out->layers.emplace_back();
    to.input_norm = arena.Place({&from.input_norm});
    to.qkv = arena.Place({&from.q, &from.k, &from.v});
    to.qkv_bias = arena.Place({&from.q_bias, &from.k_bias, &from.v_bias});
    to.q_norm = arena.Place({&from.q_norm});
    to.k_norm = arena.Place({&from.k_norm});
    to.o = arena.Place({&from.o});
    to.o_bias = arena.Place({&from.o_bias});
    to.post_attention_norm = arena.Place({&from.post_attention_norm});
    to.gate_up = arena.Place({&from.gate, &from.up});
    to.gate_up_bias = arena.Place({&from.gate_bias, &from.up_bias});
    to.down = arena.Place({&from.down});
    to.down_bias = arena.Place({&from.down_bias});
  }
  out->final_norm = arena.Place({&weights.final_norm});
  if (!weights.has_tied_lm_head) {
    out->lm_head = arena.Place({&weights.lm_head});
  } else if (out->embedding != nullptr) {
    out->lm_head = static_cast<const std::byte*>(out->embedding) +
                   (static_cast<const std::byte*>(weights.lm_head.data) -
                    static_cast<const std::byte*>(weights.embedding.data));
  }
}

}  // namespace

absl::StatusOr<DeviceWeights> UploadWeights(const Weights& weights, const TensorShard& shard) {
  const ShardWeights part = SliceWeights(weights, shard);
  DeviceWeights device;
  Arena measure(nullptr);
  PlaceAll(part, measure, &device);
  absl::StatusOr<DeviceBuffer> memory = DeviceBuffer::Create(measure.size(), "the weights");
  if (!memory.ok()) return memory.status();
  device.memory = *std::move(memory);
  Arena arena(device.memory.data());
  PlaceAll(part, arena, &device);
  if (arena.error() != cudaSuccess) return CudaStatus(arena.error(), "copying the weights");
  return device;
}

}  // namespace quire::cuda
