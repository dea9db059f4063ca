#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_KERNELS_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "worker/device/cpu/gemm/bf16.h"
#include "worker/device/cpu/gemm/isa.h"

// Everything that the CPU executor computes besides matrix products, a row or a head at a time.
//
// The same operations are compiled for AVX-512, AVX2 and portable C++ and give the same bits on all
// of them: vectors of 16 lanes everywhere, sums in fixed trees, fused multiply-adds only where
// written, exp and log of our own. All expect denormals to be flushed (ThreadPool does that). None
// reads or writes outside its arguments, allocates, or keeps state, so any number of threads may
// call them.
//
// T is the compute dtype: float or Bf16. In bf16 every operation computes in fp32 and rounds where
// Hugging Face's modules round (each operator's result).
namespace quire {

// Keys that a query row visits at once: the online softmax moves from segment to segment, segments
// lie at multiples of this length from position 0. A part of numerics_id.
inline constexpr uint32_t kAttentionSegment = 64;
// Query rows of one attention call.
inline constexpr int kAttentionRows = 16;

// Query rows that share a sequence and a KV head.
template <typename T>
struct AttentionTile {
  int num_rows = 0;  // 1..kAttentionRows
  int head_dim = 0;  // a multiple of 16 up to 256
  float scale = 1.0f;
  const T* queries[kAttentionRows];    // [head_dim] each
  T* outputs[kAttentionRows];          // [head_dim] each
  uint32_t first_key[kAttentionRows];  // row r sees the positions first_key[r] <= j < end_key[r]
  uint32_t end_key[kAttentionRows];    // > first_key[r]

  // Block b of the sequence holds positions [b * block_size, (b + 1) * block_size). Where its keys
  // and values of this layer and head lie: keys + blocks[b] * block_stride, KvStore's layout.
  const uint32_t* blocks = nullptr;
  uint32_t block_size = 0;  // 8 or a multiple of 16
  const T* keys = nullptr;
  const T* values = nullptr;
  size_t block_stride = 0;  // elements
};

// The operations in one compute dtype.
template <typename T>
struct TypedKernels {
  // y = x / sqrt(mean(x²) + eps) · weight over n elements; bf16: rounded before and after the
  // product with the weight. False if the mean square is not finite. x == y is allowed.
  bool (*rms_norm)(const T* x, const T* weight, float eps, int n, T* y);
  // x = x + delta.
  void (*add)(T* x, const T* delta, int n);
  // out = silu(gate) · up with silu(a) = a / (1 + e^−a).
  void (*silu_mul)(const T* gate, const T* up, int n, T* out);
  // Rotates the two halves of a head against each other in place; cos and sin: [half], rounded to
  // T already. `half` is a multiple of 8.
  void (*rope)(T* head, const float* cos, const float* sin, int half);
  // Writes a position's key into its block: `offset` is the position within it.
  void (*store_key)(const T* key, int head_dim, uint32_t block_size, uint32_t offset, T* block);
  // softmax(scale · q · kᵀ) · v for every row, over the keys the row sees. See attention_inl.h.
  void (*attention)(const AttentionTile<T>& tile);
};

// What a look over a row of logits finds.
struct RowMax {
  float max = 0;
  uint32_t index = 0;   // the lowest index that holds it
  bool finite = false;  // every element is finite; if not, max and index mean nothing
};

// Which entries of a row remain: score > threshold, or == threshold with an index < end_tie; and
// weight >= min_weight. As it stands: all whose score is not −inf.
struct KeptSet {
  float threshold = -__builtin_inff();
  uint32_t end_tie = 0;  // < 2^31
  float min_weight = 0;
};

// One Gumbel-max draw: see sampler.h for the definition.
struct GumbelKey {
  uint64_t seed = 0;
  uint32_t position = 0;
  uint32_t choice = 0;
};

struct SamplingKernels {
  RowMax (*row_max)(const float* row, uint32_t n);
  // The same without the look at finiteness (`finite` stays false): entries may be −inf, none a
  // NaN.
  RowMax (*arg_max)(const float* row, uint32_t n);
  // log(sum of e^(row − max)) + max.
  float (*log_sum_exp)(const float* row, uint32_t n, float max);
  // Indices of the k largest, largest first, ties to the lower index. REQUIRES: 0 < k <= 32, k <=
  // n. Writes them to `top`.
  void (*top)(const float* row, uint32_t n, uint32_t k, uint32_t* top);
  // scores = (row − max) / temperature and weights = e^scores, both padded with −inf and 0 to a
  // multiple of 64.
  void (*score)(const float* row, uint32_t n, float max, float temperature, float* scores,
                float* weights);
  // Copies what has score >= threshold and weight > min_weight: scores, weights and indices, in
  // order. Returns how many; up to 16 elements beyond are overwritten.
  uint32_t (*gather)(const float* scores, const float* weights, uint32_t n, float threshold,
                     float min_weight, float* out_scores, float* out_weights,
                     uint32_t* out_indices);
  // Sum of the weights whose score is > pivot, and their number.
  double (*mass_above)(const float* scores, const float* weights, uint32_t n, float pivot,
                       uint32_t* count);
  // Keeps, in place and in order, the entries with score > pivot, or the others. Returns how many;
  // the range of their scores goes to lowest and highest. The arrays have 16 elements of slack.
  uint32_t (*partition)(float* scores, float* weights, uint32_t* indices, uint32_t n, float pivot,
                        bool upper, float* lowest, float* highest);
  // arg max of score + Gumbel noise over the kept set, ties to the lower index. `scores` and
  // `weights` are padded as `score` leaves them. REQUIRES: the set is not empty.
  uint32_t (*gumbel_arg_max)(const float* scores, const float* weights, uint32_t n,
                             const KeptSet& kept, const GumbelKey& key);
};

struct CpuKernels {
  TypedKernels<float> fp32;
  TypedKernels<Bf16> bf16;
  SamplingKernels sampling;
};

// The operations as compiled for a path. kAvx512Bf16 has those of kAvx512. REQUIRES: the processor
// supports `isa` (isa.h).
const CpuKernels& KernelsFor(Isa isa);

template <typename T>
const TypedKernels<T>& KernelsOf(const CpuKernels& kernels);
template <>
inline const TypedKernels<float>& KernelsOf<float>(const CpuKernels& kernels) {
  return kernels.fp32;
}
template <>
inline const TypedKernels<Bf16>& KernelsOf<Bf16>(const CpuKernels& kernels) {
  return kernels.bf16;
}

// The tables themselves; only KernelsFor may look at them before the processor was asked.
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kPortableKernels;

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_KERNELS_H_
