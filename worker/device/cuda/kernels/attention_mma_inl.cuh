#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_MMA_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_MMA_INL_CUH_

#include <cstdint>

#include "worker/device/cuda/kernels/attention_inl.cuh"
#include "worker/device/cuda/kernels/ptx.cuh"

// The recipe in bf16, as a warp carries it out for 16 query rows. Decoding and prefill share it
// all; they differ in which keys' scores and which columns' sums a warp computes, and each of those
// has a chain of its own.
//
// A lane holds parts of rows g = lane / 4 and g + 8, "halves" 0 and 1, in the layouts of
// MultiplyAdd: of a tile's scores and of the sums, columns 8n + 2t and 8n + 2t + 1 with t = lane
// % 4. With kHalves == 1, rows 8 to 15 are not there.
//
// kHeadDim is the head_dim that a kernel is made for; a model's may be smaller, with zeros up to
// it.
namespace quire::cuda {

constexpr uint32_t kAttentionThreads = 128;
constexpr uint32_t kAttentionWarps = kAttentionThreads / 32;
constexpr int kTileSize = static_cast<int>(kAttentionTile);

inline __device__ uint32_t Lane() { return threadIdx.x % 32; }
inline __device__ uint32_t Warp() { return threadIdx.x / 32; }

// --- Tiles of keys and values in shared memory -----------------------------------------------

// A stage is a tile's keys, then its values, a row each. Within a row the 16-byte chunks are
// permuted, chunk c lies at c ^ (row % 8), so that eight rows' same chunk falls into all banks.

template <int kHeadDim>
struct Stage {
  static constexpr uint32_t kChunks = kHeadDim / 8;  // of a row
  static constexpr uint32_t kRowBytes = 2 * kHeadDim;
  static constexpr uint32_t kTileBytes = kTileSize * kRowBytes;
  static constexpr uint32_t kBytes = 2 * kTileBytes;
};

// Copies tiles of one sequence and KV head at a time from the store.
template <int kHeadDim>
class TileCopier {
 public:
  __device__ explicit TileCopier(const AttentionParams& params)
      : block_shift_(params.block_shift),
        row_bytes_(2 * params.args.head_dim),
        head_bytes_(row_bytes_ << block_shift_),
        values_(head_bytes_ * params.args.num_kv_heads),
        source_(static_cast<const char*>(params.args.kv) + (threadIdx.x / kChunks) * row_bytes_ +
                (threadIdx.x % kChunks) * 16),
        to_((threadIdx.x / kChunks) * kRowBytes +
            ((threadIdx.x % kChunks) ^ (threadIdx.x / kChunks % 8)) * 16),
        head_dim_(params.args.head_dim) {}

  // Looks up where tile `tile` lies. Positions beyond `last` will be zeros.
  __device__ void Locate(const int32_t* table, uint32_t kv_head, uint32_t tile, int32_t last) {
    kv_head_ = kv_head;
    first_position_ = static_cast<int32_t>(tile) * kTileSize;
    const bool has_chunk = (threadIdx.x % kChunks) * 8 < head_dim_;
    thread_last_ = has_chunk ? last - static_cast<int32_t>(threadIdx.x / kChunks) : -16;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const int32_t position = first_position_ + 16 * run;
      blocks_[run] = position <= last ? table[position >> block_shift_] : 0;
    }
  }

  // Starts copying that tile to the stage at shared address `stage`.
  __device__ void Copy(uint32_t stage) const {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const uint32_t offset =
          static_cast<uint32_t>(first_position_ + 16 * run) & ((1u << block_shift_) - 1);
      const char* from = source_ + static_cast<uint32_t>(blocks_[run]) * (size_t{2} * values_) +
                         kv_head_ * head_bytes_ + offset * row_bytes_;
#pragma unroll
      for (int row = 0; row < 16; row += kRowsPerPass) {
        const uint32_t bytes = first_position_ + 16 * run + row <= thread_last_ ? 16 : 0;
        // A thread's rows of a tile have one remainder by 8, or two that differ by 4.
        const uint32_t to = stage + (kRowsPerPass == 4 && row % 8 == 4 ? to_ ^ 64 : to_) +
                            (16 * run + row) * kRowBytes;
        CopyAsync(to, from + row * row_bytes_, bytes);
        CopyAsync(to + Stage<kHeadDim>::kTileBytes, from + row * row_bytes_ + values_, bytes);
      }
    }
  }

 private:
  static constexpr uint32_t kChunks = Stage<kHeadDim>::kChunks;
  static constexpr uint32_t kRowBytes = Stage<kHeadDim>::kRowBytes;
  static constexpr int kRowsPerPass = kAttentionThreads / kChunks;
  static_assert(kRowsPerPass == 16 || kRowsPerPass == 8 || kRowsPerPass == 4);
  static constexpr int kRuns = kTileSize / 16;  // 16 positions lie in one block

  // In bytes, in the store.
  uint32_t block_shift_;
  uint32_t row_bytes_;
  uint32_t head_bytes_;  // a KV head's keys of a block
  uint32_t values_;      // from a key to its value
  const char* source_;   // this thread's chunk and row of block 0
  uint32_t to_;          // this thread's chunk and row of a stage
  uint32_t head_dim_;

  uint32_t kv_head_ = 0;
  int32_t first_position_ = 0;
  int32_t thread_last_ = -1;  // the last position, less this thread's row; < 0: beyond head_dim
  int32_t blocks_[kRuns] = {};
};

// --- Products ------------------------------------------------------------------------------------

// A lane's part of 16 query rows, zeros where there is no row or no column.
inline __device__ uint4 LoadQueryStep(const uint16_t* row0, const uint16_t* row1, uint32_t head_dim,
                                      uint32_t step) {
  const auto load = [&](const uint16_t* row, uint32_t column) -> uint32_t {
    return row == nullptr ? 0 : *reinterpret_cast<const uint32_t*>(row + column);
  };
  if (16 * step >= head_dim) return make_uint4(0, 0, 0, 0);
  const uint32_t column = 16 * step + 2 * (Lane() % 4);
  return make_uint4(load(row0, column), load(row1, column), load(row0, column + 8),
                    load(row1, column + 8));
}

template <int kHeadDim>
class QueryInRegisters {
 public:
  static constexpr uint32_t kSharedBytes = 0;
  __device__ QueryInRegisters(const uint16_t* row0, const uint16_t* row1, uint32_t head_dim,
                              void* /*shared*/) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      steps_[step] = LoadQueryStep(row0, row1, head_dim, step);
    }
  }
  __device__ uint4 operator[](int step) const { return steps_[step]; }

 private:
  uint4 steps_[kHeadDim / 16];
};

// Each thread keeps its own part there, so no one waits for another.
template <int kHeadDim>
class QueryInShared {
 public:
  static constexpr uint32_t kSharedBytes = kHeadDim / 16 * sizeof(uint4) * kAttentionThreads;
  __device__ QueryInShared(const uint16_t* row0, const uint16_t* row1, uint32_t head_dim,
                           void* shared)
      : steps_(static_cast<uint4*>(shared) + threadIdx.x) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      steps_[step * kAttentionThreads] = LoadQueryStep(row0, row1, head_dim, step);
    }
  }
  __device__ uint4 operator[](int step) const { return steps_[step * kAttentionThreads]; }

 private:
  uint4* steps_;
};

// Scores of 16 kRuns keys, unscaled: scores[n] are those of keys 8n to 8n + 7. `keys` is the shared
// address of the first key's row.
template <int kHeadDim, int kRuns, typename Query>
inline __device__ void ComputeScores(const Query& query, uint32_t keys,
                                     float (&scores)[2 * kRuns][4]) {
  const uint32_t lane = Lane();
  const uint32_t row = keys + (lane / 16 * 8 + lane % 8) * Stage<kHeadDim>::kRowBytes;
  const uint32_t chunk = (lane / 8 % 2) ^ (lane % 8);
#pragma unroll
  for (int n = 0; n < 2 * kRuns; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint4 a = query[step];
    const uint32_t address = row + (chunk ^ (2 * step % 8)) * 16 + step / 4 * 128;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const uint4 b = LoadMatrices(address + run * 16 * Stage<kHeadDim>::kRowBytes);
      MultiplyAdd(scores[2 * run], a, b.x, b.y);
      MultiplyAdd(scores[2 * run + 1], a, b.z, b.w);
    }
  }
}

// Adds the tile's values, weighted, to sums of 16 kRuns columns from `first_column` on, a multiple
// of 16. `values` is the shared address of the tile's values.
template <int kHeadDim, int kRuns>
inline __device__ void AddValues(const uint4 (&weights)[kTileSize / 16], uint32_t values,
                                 uint32_t first_column, float (&sums)[2 * kRuns][4]) {
  const uint32_t lane = Lane();
  const uint32_t row = values + lane % 16 * Stage<kHeadDim>::kRowBytes;
  const uint32_t chunk = (lane / 16) ^ (lane % 8);
#pragma unroll
  for (int step = 0; step < kTileSize / 16; ++step) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const uint32_t column_chunk = first_column / 8 + 2 * run;
      const uint4 b =
          LoadMatricesTransposed(row + step * 16 * Stage<kHeadDim>::kRowBytes +
                                 (chunk ^ (column_chunk % 8)) * 16 + column_chunk / 8 * 128);
      MultiplyAdd(sums[2 * run], weights[step], b.x, b.y);
      MultiplyAdd(sums[2 * run + 1], weights[step], b.z, b.w);
    }
  }
}

// --- Softmax -------------------------------------------------------------------------------------

// Of a lane's rows in the current segment; attention_inl.cuh says what a state is. A lane has the
// sum of powers of its own columns; the row's is that of the four lanes.
template <int kHalves, int kColumns>
struct SegmentState {
  float maximum[kHalves];
  float sum[kHalves];
  float values[kColumns / 8][4];

  __device__ void Reset() {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      maximum[half] = -INFINITY;
      sum[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[n][i] = 0;
    }
  }
};

inline __device__ float QuadSum(float value) {
  value += __shfl_xor_sync(0xffffffff, value, 1);
  return value + __shfl_xor_sync(0xffffffff, value, 2);
}
inline __device__ float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}

// Sets the scores of keys that a lane's rows, which are at `positions`, do not see to −inf. The
// tile begins at `first_position`.
template <int kHalves>
inline __device__ void MaskScores(const AttentionParams& params, int32_t first_position,
                                  const int32_t (&positions)[kHalves],
                                  float (&scores)[kTileSize / 8][4]) {
  const int32_t lane_position = first_position + static_cast<int32_t>(2 * (Lane() % 4));
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int32_t first = FirstKey(params, positions[half]) - lane_position;
    const int32_t last = positions[half] - lane_position;
#pragma unroll
    for (int n = 0; n < kTileSize / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int32_t key = 8 * n + i;
        if (key < first || key > last) scores[n][2 * half + i] = -INFINITY;
      }
    }
  }
}

// The softmax step of a tile: moves the state to the tile's maximum and adds the powers. `weights`
// becomes the powers in bf16, laid out for AddValues.
template <int kHalves, int kColumns>
inline __device__ void SoftmaxStep(float exponent_scale, float (&scores)[kTileSize / 8][4],
                                   SegmentState<kHalves, kColumns>& state,
                                   uint4 (&weights)[kTileSize / 16]) {
  constexpr int kGroups = kTileSize / 8;
  bool rescales = false;
  float factors[kHalves];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    float highest = scores[0][2 * half];
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    const float before = state.maximum[half];
    const float after = fmaxf(before, __fmul_rn(QuadMax(highest), exponent_scale));
    const float base = ExponentBase(after);
    factors[half] = Exp2(before - base);
    rescales |= factors[half] != 1.0f;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = Exp2(__fmaf_rn(scores[n][i], exponent_scale, -base));
        sum += scores[n][i];
      }
    }
    state.maximum[half] = after;
    state.sum[half] = __fmaf_rn(state.sum[half], factors[half], sum);
  }
  // A factor of one changes nothing.
  if (__any_sync(0xffffffff, rescales)) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2 * kHalves; ++i) {
        state.values[n][i] = __fmul_rn(state.values[n][i], factors[i / 2]);
      }
    }
  }
#pragma unroll
  for (int step = 0; step < kTileSize / 16; ++step) {
    const float(&low)[4] = scores[2 * step];
    const float(&high)[4] = scores[2 * step + 1];
    weights[step].x = PackBf16(low[0], low[1]);
    weights[step].z = PackBf16(high[0], high[1]);
    if constexpr (kHalves == 2) {
      weights[step].y = PackBf16(low[2], low[3]);
      weights[step].w = PackBf16(high[2], high[3]);
    } else {
      weights[step].y = 0;
      weights[step].w = 0;
    }
  }
}

// --- Rows' states over all segments --------------------------------------------------------------

template <int kHalves, int kColumns>
class SumsInRegisters {
 public:
  static constexpr uint32_t kSharedBytes = 0;
  __device__ explicit SumsInRegisters(void* /*shared*/) {}
  __device__ float& At(int n, int i) { return values_[n][i]; }

 private:
  float values_[kColumns / 8][2 * kHalves];
};

// Each thread keeps its own part there, so no one waits for another.
template <int kHalves, int kColumns>
class SumsInShared {
 public:
  static constexpr uint32_t kSharedBytes =
      kColumns / 8 * 2 * kHalves * sizeof(float) * kAttentionThreads;
  __device__ explicit SumsInShared(void* shared)
      : values_(static_cast<float*>(shared) + threadIdx.x) {}
  __device__ float& At(int n, int i) { return values_[(n * 2 * kHalves + i) * kAttentionThreads]; }

 private:
  float* values_;
};

template <int kHalves, int kColumns, typename Sums = SumsInRegisters<kHalves, kColumns>>
class RowState {
 public:
  static constexpr uint32_t kSharedBytes = Sums::kSharedBytes;
  __device__ explicit RowState(void* shared = nullptr) : sums_(shared) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      maximum_[half] = -INFINITY;
      sum_[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2 * kHalves; ++i) sums_.At(n, i) = 0;
    }
  }

  // All lanes of a warp call it.
  __device__ void Merge(const SegmentState<kHalves, kColumns>& segment) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const SegmentMerge merge(segment.maximum[half], QuadSum(segment.sum[half]), maximum_[half],
                               sum_[half]);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          sums_.At(n, i) = merge.Merged(segment.values[n][i], sums_.At(n, i));
        }
      }
    }
  }

  // Writes the lane's part of one half's output row, whose columns from `first_column` on these
  // are.
  __device__ void Store(int half, uint16_t* row, uint32_t first_column, uint32_t head_dim) {
    const float factor = __frcp_rn(sum_[half]);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const uint32_t column = first_column + 8 * n + 2 * (Lane() % 4);
      if (column < head_dim) {
        *reinterpret_cast<uint32_t*>(row + column) = PackBf16(
            __fmul_rn(sums_.At(n, 2 * half), factor), __fmul_rn(sums_.At(n, 2 * half + 1), factor));
      }
    }
  }

 private:
  float maximum_[kHalves];
  float sum_[kHalves];
  Sums sums_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_MMA_INL_CUH_
