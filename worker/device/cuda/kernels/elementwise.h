#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ELEMENTWISE_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ELEMENTWISE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "worker/model/dtype.h"

// What the CUDA executor computes a row or a head at a time, apart from matrix products, attention
// and sampling.
//
// Every function enqueues on `stream` and returns the launch's error. All pointers are to device
// memory. Tensors are in the compute dtype (kF32 or kBF16); in bf16 every operation computes in
// fp32 and rounds where Hugging Face's modules round. A row's result depends on the row alone:
// sums run in one fixed tree, whatever the number of rows. Rows start at multiples of 16 bytes.
//
// Weights, rows, row_tokens, row_slots, row_positions, cos and sin are read before the kernels
// before have ended. So what writes them goes before Embed, which begins a step and waits for all
// that was enqueued.
namespace quire::cuda {

// hidden[r] = embedding[token of r]; clears faults[r].
struct EmbedArgs {
  DType dtype = DType::kBF16;
  uint32_t num_rows = 0;
  uint32_t hidden_size = 0;         // a multiple of 8
  const void* embedding = nullptr;  // [vocabulary, hidden_size]
  // [num_rows]; negative: the slot's last sampled token, which the host may not know yet.
  const int32_t* row_tokens = nullptr;
  const int32_t* row_slots = nullptr;    // [num_rows]; negative: a padding row, zeros
  const int32_t* last_tokens = nullptr;  // [num_slots]
  void* hidden = nullptr;                // [num_rows, hidden_size]
  uint8_t* faults = nullptr;             // [num_rows], NumericFault
};
cudaError_t Embed(const EmbedArgs& args, cudaStream_t stream);

// What AddNorm takes.
inline constexpr uint32_t kMaxHiddenSize = 16384;

// hidden += delta (where there is one), then normed = hidden / sqrt(mean(hidden²) + eps) · weight.
// With `rows`, output row i is that of input row rows[i], and hidden is left as it was.
struct AddNormArgs {
  DType dtype = DType::kBF16;
  uint32_t num_rows = 0;
  uint32_t hidden_size = 0;  // a multiple of 16 up to 16,384
  float eps = 0;
  void* hidden = nullptr;         // [rows, hidden_size]
  const void* delta = nullptr;    // the same shape, or null
  const void* weight = nullptr;   // [hidden_size]
  const int32_t* rows = nullptr;  // [num_rows], or null: the identity; negative: skipped
  void* normed = nullptr;         // [num_rows, hidden_size]
  // Where the mean square is not finite and no fault is noted yet, becomes `stage` (NumericFault).
  uint8_t* faults = nullptr;  // of the input rows
  uint8_t stage = 0;
};
cudaError_t AddNorm(const AddNormArgs& args, cudaStream_t stream);

// For each query and key head of a row: RMSNorm over head_dim where the model has it, then RoPE.
// Queries stay in place; keys and values go to their place in the KV store (kv_layout.h).
struct RotateStoreArgs {
  DType dtype = DType::kBF16;
  uint32_t num_rows = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;  // a multiple of 16 up to 256
  uint32_t block_size = 0;
  float eps = 0;
  void* qkv = nullptr;           // [num_rows, (num_heads + 2 num_kv_heads) · head_dim]
  const void* q_norm = nullptr;  // [head_dim], or null
  const void* k_norm = nullptr;  // [head_dim], or null
  // [context, head_dim / 2], fp32, rounded to the dtype already.
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* row_slots = nullptr;      // [num_rows]; negative: a padding row, nothing is stored
  const int32_t* row_positions = nullptr;  // [num_rows]
  const int32_t* block_tables = nullptr;   // [num_slots, table_stride]
  uint32_t table_stride = 0;
  void* kv = nullptr;  // the layer's part of the store
};
cudaError_t RotateStore(const RotateStoreArgs& args, cudaStream_t stream);

// out = silu(gate) · up, rounded after silu and after the product.
struct SiluMulArgs {
  DType dtype = DType::kBF16;
  uint32_t num_rows = 0;
  uint32_t size = 0;              // a multiple of 8
  const void* gate_up = nullptr;  // [num_rows, 2 · size]: gate, then up
  void* out = nullptr;            // [num_rows, size]
};
cudaError_t SiluMul(const SiluMulArgs& args, cudaStream_t stream);

// out, [num_rows, width], becomes the rows whose columns the ranks of a group have computed part by
// part. Parts lie one after the other, num_rows * part elements from one to the next; a part is
// [num_rows, part] but for the last, which has the columns that are left.
struct JoinPartsArgs {
  DType dtype = DType::kBF16;
  uint32_t num_rows = 0;
  uint32_t width = 0;           // in bf16 a multiple of 8
  uint32_t part = 0;            // columns; in bf16 a multiple of 8
  const void* parts = nullptr;  // [ceil(width / part), num_rows, part]
  void* out = nullptr;          // [num_rows, width]
};
cudaError_t JoinParts(const JoinPartsArgs& args, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ELEMENTWISE_H_
