#include "worker/device/cuda/kernels/elementwise.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cfloat>

#include "worker/device/cuda/kernels/kv_layout.h"
#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/pointwise_inl.cuh"
#include "worker/device/cuda/kernels/rms_norm_inl.cuh"
#include "worker/device/cuda/kernels/vec8.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kEmbedThreads = 256;
constexpr uint32_t kRotateThreads = 128;
constexpr uint32_t kSiluThreads = 128;
constexpr uint32_t kJoinThreads = 256;
constexpr uint32_t kJoinColumnBlocks = 16;  // of a row, at most

uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// fn(T()) with the dtype's element type.
template <typename Fn>
cudaError_t WithElement(DType dtype, Fn fn) {
  switch (dtype) {
    case DType::kF32:
      return fn(float());
    case DType::kBF16:
      return fn(__nv_bfloat16());
    default:
      return cudaErrorInvalidValue;
  }
}

// A block a row.
template <typename T>
__global__ void __launch_bounds__(kEmbedThreads) EmbedKernel(const EmbedArgs args) {
  LetSecondaryStart();
  const uint32_t row = blockIdx.x;
  const int32_t slot = args.row_slots[row];
  int32_t token = args.row_tokens[row];
  WaitForPrimary();
  if (slot >= 0 && token < 0) token = args.last_tokens[slot];
  const T* from =
      static_cast<const T*>(args.embedding) + static_cast<size_t>(token) * args.hidden_size;
  T* to = static_cast<T*>(args.hidden) + static_cast<size_t>(row) * args.hidden_size;
  for (uint32_t i = 8 * threadIdx.x; i < args.hidden_size; i += 8 * kEmbedThreads) {
    StoreVec8(to + i, slot >= 0 ? LoadVec8(from + i) : Vec8<T>{});
  }
  if (threadIdx.x == 0) args.faults[row] = 0;
}

// A block a row of the output.
template <typename T, int kChunks>
__global__ void __launch_bounds__(kNormThreads) AddNormKernel(const AddNormArgs args) {
  __shared__ float warp_sums[kNormThreads / 32];
  LetSecondaryStart();
  const uint32_t size = args.hidden_size;
  const auto weight = LoadNormRow<T, kChunks>(static_cast<const T*>(args.weight), size);
  const int32_t row =
      args.rows == nullptr ? static_cast<int32_t>(blockIdx.x) : args.rows[blockIdx.x];
  WaitForPrimary();
  if (row < 0) return;
  T* const hidden = static_cast<T*>(args.hidden) + static_cast<size_t>(row) * size;
  NormRow<T, kChunks> x = LoadNormRow<T, kChunks>(hidden, size);
  if (args.delta != nullptr) {
    const auto delta = LoadNormRow<T, kChunks>(
        static_cast<const T*>(args.delta) + static_cast<size_t>(row) * size, size);
    ForEachChunk<kChunks>(size, [&](int i, uint32_t offset) {
      const Floats8 a = ToFloats(x.chunks[i]);
      const Floats8 b = ToFloats(delta.chunks[i]);
      x.chunks[i] = FromFloats<T>(Map([&](int k) { return __fadd_rn(a.x[k], b.x[k]); }));
      if (args.rows == nullptr) StoreVec8(hidden + offset, x.chunks[i]);
    });
  }
  const float mean_square = MeanSquare(x, size, warp_sums);
  const float factor = NormFactor(mean_square, args.eps);
  T* const normed = static_cast<T*>(args.normed) + static_cast<size_t>(blockIdx.x) * size;
  ForEachChunk<kChunks>(size, [&](int i, uint32_t offset) {
    StoreVec8(normed + offset, NormChunk(x.chunks[i], weight.chunks[i], factor));
  });
  const bool finite = mean_square <= FLT_MAX;  // false for a NaN, too
  if (threadIdx.x == 0 && !finite && args.faults[row] == 0) args.faults[row] = args.stage;
}

// 2^log2_lanes neighbouring lanes a head, each with 8 elements of its lower half and the 8 that
// they turn against.
template <typename T>
__global__ void __launch_bounds__(kRotateThreads)
    RotateStoreKernel(const RotateStoreArgs args, const uint32_t log2_lanes) {
  LetSecondaryStart();
  const uint32_t num_rotated = args.num_heads + args.num_kv_heads;
  const uint32_t num_heads = num_rotated + args.num_kv_heads;
  const uint32_t half = args.head_dim / 2;
  const uint32_t thread = blockIdx.x * kRotateThreads + threadIdx.x;
  const uint32_t row = (thread >> log2_lanes) / num_heads;
  const uint32_t head = (thread >> log2_lanes) % num_heads;
  const uint32_t at = 8 * (thread & ((1u << log2_lanes) - 1));  // in the half
  const int32_t slot = row < args.num_rows && at < half ? args.row_slots[row] : -1;
  const bool is_here = slot >= 0;
  const bool rotates = is_here && head < num_rotated;

  // What no kernel writes is read before the wait.
  const uint32_t position = is_here ? args.row_positions[row] : 0;
  Vec8<float> cos = {};
  Vec8<float> sin = {};
  if (rotates) {
    cos = LoadVec8(args.cos + static_cast<size_t>(position) * half + at);
    sin = LoadVec8(args.sin + static_cast<size_t>(position) * half + at);
  }
  WaitForPrimary();

  T* const from = static_cast<T*>(args.qkv) +
                  (static_cast<size_t>(row) * num_heads + head) * args.head_dim + at;
  Vec8<T> low = {};
  Vec8<T> high = {};
  if (is_here) {
    low = LoadVec8(from);
    high = LoadVec8(from + half);
  }
  if (args.q_norm != nullptr || args.k_norm != nullptr) {
    const T* const weight =
        static_cast<const T*>(head < args.num_heads ? args.q_norm : args.k_norm);
    const float sum = SumOfLanes(AddSquares(AddSquares(0.0f, low), high), 1u << log2_lanes);
    if (rotates && weight != nullptr) {
      const float factor = NormFactor(__fdiv_rn(sum, static_cast<float>(args.head_dim)), args.eps);
      low = NormChunk(low, LoadVec8(weight + at), factor);
      high = NormChunk(high, LoadVec8(weight + half + at), factor);
    }
  }
  if (rotates) {
    Floats8 a = ToFloats(low);
    Floats8 b = ToFloats(high);
    const Floats8 c = ToFloats(cos);
    const Floats8 s = ToFloats(sin);
#pragma unroll
    for (int i = 0; i < 8; ++i) RotatePair<T>(c.x[i], s.x[i], &a.x[i], &b.x[i]);
    low = FromFloats<T>(a);
    high = FromFloats<T>(b);
  }
  if (!is_here) return;
  T* to = from;
  if (head >= args.num_heads) {
    const KvLayout layout{args.num_kv_heads, args.block_size, args.head_dim};
    const uint32_t block = args.block_tables[static_cast<size_t>(slot) * args.table_stride +
                                             position / args.block_size];
    const uint32_t kv_head = (head - args.num_heads) % args.num_kv_heads;
    to = static_cast<T*>(args.kv) + layout.key(block, kv_head, position % args.block_size) +
         (rotates ? 0 : layout.value_offset()) + at;
  }
  StoreVec8(to, low);
  StoreVec8(to + half, high);
}

// Blocks: x along a row, y over the rows.
template <typename T>
__global__ void __launch_bounds__(kSiluThreads) SiluMulKernel(const SiluMulArgs args) {
  LetSecondaryStart();
  WaitForPrimary();
  const uint32_t at = 8 * (blockIdx.x * kSiluThreads + threadIdx.x);
  if (at >= args.size) return;
  for (uint32_t row = blockIdx.y; row < args.num_rows; row += gridDim.y) {
    const T* const from =
        static_cast<const T*>(args.gate_up) + static_cast<size_t>(row) * 2 * args.size + at;
    const Floats8 gate = ToFloats(LoadVec8(from));
    const Floats8 up = ToFloats(LoadVec8(from + args.size));
    StoreVec8(static_cast<T*>(args.out) + static_cast<size_t>(row) * args.size + at,
              FromFloats<T>(Map([&](int i) { return SiluMulOf<T>(gate.x[i], up.x[i]); })));
  }
}

template <typename T>
cudaError_t LaunchAddNorm(const AddNormArgs& args, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    return LaunchKernel(kernel, dim3(args.num_rows), dim3(kNormThreads), 0, stream, args);
  };
  const uint32_t chunks = CeilDiv(args.hidden_size, 8 * kNormThreads);
  if (chunks <= 1) return launch(AddNormKernel<T, 1>);
  if (chunks <= 2) return launch(AddNormKernel<T, 2>);
  if (chunks <= 4) return launch(AddNormKernel<T, 4>);
  if (chunks <= 8) return launch(AddNormKernel<T, 8>);
  return cudaErrorInvalidValue;
}

// Columns in words of the widest kind that divides them. Blocks in x: rows; in y: columns.
template <typename Word>
__global__ void __launch_bounds__(kJoinThreads)
    JoinPartsKernel(const Word* parts, Word* out, uint32_t width, uint32_t part) {
  LetSecondaryStart();
  WaitForPrimary();
  const size_t row = blockIdx.x;
  const size_t part_words = size_t{gridDim.x} * part;
  for (uint32_t i = blockIdx.y * kJoinThreads + threadIdx.x; i < width;
       i += gridDim.y * kJoinThreads) {
    const uint32_t rank = i / part;
    const uint32_t first = rank * part;
    const uint32_t row_words = min(part, width - first);
    out[row * width + i] = parts[rank * part_words + row * row_words + (i - first)];
  }
}

template <typename Word>
cudaError_t LaunchJoinParts(const JoinPartsArgs& args, uint32_t elements_a_word,
                            cudaStream_t stream) {
  const uint32_t width = args.width / elements_a_word;
  const uint32_t part = args.part / elements_a_word;
  const dim3 grid(args.num_rows, std::min(CeilDiv(width, kJoinThreads), kJoinColumnBlocks));
  return LaunchKernel(JoinPartsKernel<Word>, grid, dim3(kJoinThreads), 0, stream,
                      static_cast<const Word*>(args.parts), static_cast<Word*>(args.out), width,
                      part);
}

}  // namespace

cudaError_t Embed(const EmbedArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return WithElement(args.dtype, [&](auto element) {
    // A step begins here: what the kernels after it read before they wait is there then.
    return LaunchKernelAfterAll(EmbedKernel<decltype(element)>, dim3(args.num_rows),
                                dim3(kEmbedThreads), 0, stream, args);
  });
}

cudaError_t AddNorm(const AddNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return WithElement(args.dtype,
                     [&](auto element) { return LaunchAddNorm<decltype(element)>(args, stream); });
}

cudaError_t RotateStore(const RotateStoreArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  uint32_t log2_lanes = 0;
  while (16u << log2_lanes < args.head_dim) ++log2_lanes;
  if (log2_lanes > 4) return cudaErrorInvalidValue;
  const uint32_t threads = (args.num_rows * (args.num_heads + 2 * args.num_kv_heads)) << log2_lanes;
  return WithElement(args.dtype, [&](auto element) {
    return LaunchKernel(RotateStoreKernel<decltype(element)>,
                        dim3(CeilDiv(threads, kRotateThreads)), dim3(kRotateThreads), 0, stream,
                        args, log2_lanes);
  });
}

cudaError_t SiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(CeilDiv(args.size, 8 * kSiluThreads),
                  args.num_rows < 65535 ? args.num_rows : 65535);
  return WithElement(args.dtype, [&](auto element) {
    return LaunchKernel(SiluMulKernel<decltype(element)>, grid, dim3(kSiluThreads), 0, stream,
                        args);
  });
}

cudaError_t JoinParts(const JoinPartsArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  switch (args.dtype) {
    case DType::kBF16:
      if (args.width % 8 != 0 || args.part % 8 != 0) return cudaErrorInvalidValue;
      return LaunchJoinParts<uint4>(args, 8, stream);
    case DType::kF32:
      if (args.width % 4 == 0 && args.part % 4 == 0) {
        return LaunchJoinParts<uint4>(args, 4, stream);
      }
      return LaunchJoinParts<uint32_t>(args, 1, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace quire::cuda
