#ifndef QUIRE_WORKER_DEVICE_CUDA_CUDA_MODEL_H_
#define QUIRE_WORKER_DEVICE_CUDA_CUDA_MODEL_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/cuda/cuda_rank_group.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/device_weights.h"
#include "worker/device/cuda/gemm/linear.h"
#include "worker/device/cuda/kernels/attention.h"
#include "worker/model/model_shard.h"
#include "worker/model/weights.h"

namespace quire::cuda {

// Rows whose logits are held at once: more need the output layer's weights read again.
inline constexpr uint32_t kMaxLogitsRows = 256;

// One step's rows, as the device finds them: all pointers are to device memory.
struct ForwardBatch {
  uint32_t num_rows = 0;
  const int32_t* row_tokens = nullptr;     // [num_rows]; negative: the slot's last sampled token
  const int32_t* row_slots = nullptr;      // [num_rows]; negative: a padding row
  const int32_t* row_positions = nullptr;  // [num_rows]

  // Rows that are alone in their run; none: max_decode_items is 0.
  const DecodeItem* decode_items = nullptr;
  const uint32_t* num_decode_items = nullptr;
  uint32_t max_decode_items = 0;
  // The others.
  const PrefillTile* prefill_tiles = nullptr;
  uint32_t num_prefill_tiles = 0;
};

// What slots hold on the device, and where the model finds it.
struct SlotPointers {
  const int32_t* last_tokens = nullptr;   // [num_slots]
  const int32_t* block_tables = nullptr;  // [num_slots, table_stride]
  uint32_t table_stride = 0;
};

// A Llama-family decoder on one GPU, in bf16 or fp32: Llama 2 and 3.x, Mistral, Qwen2, Qwen3.
//
// Holds weights, scratch and the KV store. Every row's result depends on its sequence alone: the
// matrix products (linear.h), the attention (attention.h) and the rest (elementwise.h) fix the
// order of each row's sums. Rounds where CpuModel rounds. Everything is enqueued on the caller's
// stream, allocates nothing and can be captured.
//
// A rank of several has the rows of the weights that are its own (model_shard.h) and the keys and
// values of its own heads. The residual stream is whole on every rank: what attention, activations
// and the two output projections give is gathered part by part, four times a layer.
class CudaModel {
 public:
  struct Options {
    uint32_t max_rows = 0;        // of a batch
    uint32_t context_length = 0;  // positions are below it
    uint32_t block_size = 0;      // tokens
    // Items of rows that several thread blocks share, at most: see DecodeItem.
    uint32_t max_parts = 0;
    // The rank that this is. With a group, which outlives the model, the ranks' parts are gathered;
    // a group of one rank is a group.
    TensorShard shard;
    CudaRankGroup* group = nullptr;
    // Benchmarks only. Off: matrix products and attention choose by the batch (linear.h,
    // AttentionArgs::exact). In bf16 alone.
    bool exact = true;
  };

  // Copies the weights to the device and chooses algorithms for the matrix products. UNIMPLEMENTED:
  // a dtype or shape that the kernels do not take; RESOURCE_EXHAUSTED: memory.
  static absl::StatusOr<std::unique_ptr<CudaModel>> Create(const Options& options,
                                                           const Weights& weights,
                                                           cudaStream_t stream);

  // Takes the memory for the KV store. To be called once, before Forward.
  absl::Status AllocateKv(uint32_t num_blocks);
  uint64_t kv_bytes_per_block() const;

  // Computes all layers for the rows, writing their keys and values.
  cudaError_t Forward(const ForwardBatch& batch, const SlotPointers& slots, cudaStream_t stream);
  // Logits, [count, vocabulary], of the rows rows[0, count) of the last Forward. `rows` is on the
  // device; a negative entry is skipped. REQUIRES: count <= kMaxLogitsRows.
  cudaError_t Logits(const int32_t* rows, uint32_t count, cudaStream_t stream);

  const float* logits() const { return static_cast<const float*>(logits_.data()); }
  // NumericFault of each row of the last Forward.
  const uint8_t* faults() const { return static_cast<const uint8_t*>(faults_.data()); }

  // Thread blocks that decode attention occupies the device with.
  uint32_t attention_blocks() const { return attention_blocks_; }
  uint64_t weight_bytes() const { return weights_.memory.size(); }
  uint64_t scratch_bytes() const;
  // For the log: algorithms tried for the matrix products, and those that gave the reference's
  // bits.
  uint32_t num_tried_algorithms() const { return num_tried_algorithms_; }
  uint32_t num_exact_algorithms() const { return num_exact_algorithms_; }

  void* kv_for_test() { return kv_.data(); }
  uint64_t kv_bytes() const { return kv_.size(); }

 private:
  struct Layer {
    Linear qkv, o, gate_up, down;
  };

  CudaModel(const Options& options, const ModelConfig& config, DType dtype);
  absl::Status Allocate();
  absl::Status MakeLinears(cudaStream_t stream);
  void* layer_kv(uint32_t layer) const;
  AttentionArgs AttentionOf(uint32_t layer, const ForwardBatch& batch,
                            const SlotPointers& slots) const;
  cudaError_t ForwardLayer(uint32_t layer, const ForwardBatch& batch, const SlotPointers& slots,
                           cudaStream_t stream);
  RotateStoreArgs RotateStoreOf(uint32_t layer, const ForwardBatch& batch,
                                const SlotPointers& slots) const;
  // Where the rank's part of `whole` is to be written, before CompleteRows.
  void* PartOf(const DeviceBuffer& whole) const;
  // Gathers the ranks' parts, each of `part` columns but for the last, into the rows of `whole`.
  cudaError_t CompleteRows(uint32_t num_rows, uint32_t part, uint32_t width, DType dtype,
                           const DeviceBuffer& whole, cudaStream_t stream);
  cudaError_t AddAndNorm(uint32_t num_rows, bool adds, const void* weight, uint8_t stage,
                         cudaStream_t stream);

  const Options options_;
  const ModelConfig config_;
  const ShardSizes sizes_;  // this rank's outputs
  const DType dtype_;
  std::unique_ptr<MatrixLibrary> library_;
  DeviceWeights weights_;
  std::vector<Layer> layers_;
  Linear lm_head_;
  uint32_t num_tried_algorithms_ = 0;
  uint32_t num_exact_algorithms_ = 0;
  uint32_t attention_blocks_ = 0;
  // What the last layer of the last Forward adds is still in delta_, not in hidden_.
  bool delta_is_left_ = false;

  DeviceBuffer hidden_;  // the residual stream
  DeviceBuffer normed_;  // input of the next product
  DeviceBuffer delta_;   // what a block adds to the residual stream
  DeviceBuffer qkv_;
  DeviceBuffer attended_;
  DeviceBuffer gate_up_;
  DeviceBuffer activated_;
  DeviceBuffer final_;   // normed rows whose logits are asked for
  DeviceBuffer logits_;  // fp32
  DeviceBuffer faults_;
  DeviceBuffer rope_cos_;
  DeviceBuffer rope_sin_;
  DeviceBuffer partials_;  // of attention
  DeviceBuffer arrivals_;
  // With a group: a part on its way, and all parts as they come.
  DeviceBuffer part_;
  DeviceBuffer parts_;
  DeviceBuffer kv_;
  uint32_t num_blocks_ = 0;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_CUDA_MODEL_H_
