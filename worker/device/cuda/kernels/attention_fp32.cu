#include "worker/device/cuda/kernels/attention_inl.cuh"

// The recipe in fp32, a warp for a (row, query head); simple rather than fast: one body for
// decoding and prefill. A score is one chain of fused multiply-adds over head_dim, in order; a lane
// has keys lane and lane + 32 of a tile and columns lane, lane + 32, ... of the sums; a sum over a
// tile is that of a lane's two keys, then a tree over the lanes. Keys that the row does not see are
// not read.
namespace quire::cuda {
namespace {

constexpr uint32_t kMaxHeadDim = 256;
constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = 32 * kWarps;
constexpr int kLaneColumns = kMaxHeadDim / 32;
constexpr uint32_t kAllHeads = 1u << 20;  // a block takes a group of any size

struct alignas(16) WarpShared {
  float query[kMaxHeadDim];
  float weights[kAttentionTile];
};

struct State {
  float maximum = -INFINITY;
  float sum = 0;
  float values[kLaneColumns] = {};
};

inline __device__ float WarpMax(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, lanes));
  }
  return value;
}

inline __device__ float WarpSum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, lanes);
  }
  return value;
}

// One query row, as a warp sees it.
class WarpRow {
 public:
  __device__ WarpRow(const AttentionParams& params, WarpShared* shared, int32_t row, uint32_t head)
      : params_(params), shared_(shared), position_(params.args.row_positions[row]) {
    const AttentionArgs& args = params.args;
    table_ = args.block_tables + static_cast<size_t>(args.row_slots[row]) * args.table_stride;
    kv_ = static_cast<const float*>(args.kv) +
          static_cast<size_t>(head / params.group) * args.block_size * args.head_dim;
    block_stride_ = size_t{2} * args.num_kv_heads * args.block_size * args.head_dim;
    const float* query = static_cast<const float*>(args.queries) +
                         static_cast<size_t>(row) * args.query_stride + head * args.head_dim;
    __syncwarp();  // no lane uses the row before this one any more
    for (uint32_t i = Lane(); i < args.head_dim; i += 32) shared_->query[i] = query[i];
    __syncwarp();
  }

  __device__ int32_t position() const { return position_; }

  // The state after segment `segment` alone. All lanes call it.
  __device__ State Segment(int32_t segment) {
    const int32_t start = segment * static_cast<int32_t>(kAttentionSegment);
    const int32_t first = max(start, FirstKey(params_, position_));
    const int32_t end = min(start + static_cast<int32_t>(kAttentionSegment), position_ + 1);
    const int32_t size = static_cast<int32_t>(kAttentionTile);
    State state;
    for (int32_t tile = first / size * size; tile < end; tile += size) {
      AddTile(tile, max(tile, first), min(tile + size, end), state);
    }
    return state;
  }

  static __device__ uint32_t Lane() { return threadIdx.x % 32; }

 private:
  // The key of a position; its value lies block_stride_ / 2 behind it.
  __device__ const float* Key(int32_t position) const {
    const uint32_t offset = static_cast<uint32_t>(position) % params_.args.block_size;
    return kv_ + static_cast<size_t>(table_[position >> params_.block_shift]) * block_stride_ +
           offset * params_.args.head_dim;
  }

  // Unscaled.
  __device__ float Score(int32_t position) const {
    const float* key = Key(position);
    float score = 0;
    for (uint32_t i = 0; i < params_.args.head_dim; i += 4) {
      const float4 k = *reinterpret_cast<const float4*>(key + i);
      const float4 q = *reinterpret_cast<const float4*>(shared_->query + i);
      score = __fmaf_rn(q.x, k.x, score);
      score = __fmaf_rn(q.y, k.y, score);
      score = __fmaf_rn(q.z, k.z, score);
      score = __fmaf_rn(q.w, k.w, score);
    }
    return score;
  }

  // Adds keys [first, end) of the tile that begins at position `tile`; there are some.
  __device__ void AddTile(int32_t tile, int32_t first, int32_t end, State& state) {
    float scores[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t key = tile + static_cast<int32_t>(Lane()) + 32 * i;
      scores[i] =
          key >= first && key < end ? __fmul_rn(Score(key), params_.exponent_scale) : -INFINITY;
    }
    const float before = state.maximum;
    state.maximum = fmaxf(before, WarpMax(fmaxf(scores[0], scores[1])));
    const float base = ExponentBase(state.maximum);
    const float factor = Exp2(before - base);
    const float weights[2] = {Exp2(scores[0] - base), Exp2(scores[1] - base)};
    state.sum = __fmaf_rn(state.sum, factor, WarpSum(weights[0] + weights[1]));
#pragma unroll
    for (float& value : state.values) value = __fmul_rn(value, factor);

    __syncwarp();  // no lane uses the tile before this one any more
    shared_->weights[Lane()] = weights[0];
    shared_->weights[Lane() + 32] = weights[1];
    __syncwarp();
    for (int32_t key = first; key < end; ++key) {
      const float weight = shared_->weights[key - tile];
      const float* value = Key(key) + block_stride_ / 2;
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        const uint32_t column = Lane() + 32 * i;
        if (column < params_.args.head_dim) {
          state.values[i] = __fmaf_rn(weight, value[column], state.values[i]);
        }
      }
    }
  }

  const AttentionParams& params_;
  WarpShared* shared_;
  int32_t position_;
  const int32_t* table_;
  const float* kv_;
  size_t block_stride_;
};

// Computes segments [first, end) of a row and writes its output.
__device__ void AttendRow(const AttentionParams& params, WarpRow& warp_row, int32_t row,
                          uint32_t head, int32_t first, int32_t end) {
  State state;
  for (int32_t segment = first; segment < end; ++segment) {
    const State added = warp_row.Segment(segment);
    const SegmentMerge merge(added.maximum, added.sum, state.maximum, state.sum);
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      state.values[i] = merge.Merged(added.values[i], state.values[i]);
    }
  }
  const float factor = __frcp_rn(state.sum);
  float* output = static_cast<float*>(params.args.outputs) +
                  (static_cast<size_t>(row) * params.args.num_heads + head) * params.args.head_dim;
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) {
    const uint32_t column = WarpRow::Lane() + 32 * i;
    if (column < params.args.head_dim) output[column] = __fmul_rn(state.values[i], factor);
  }
}

// Computes an item's segments of a row and writes each as a partial result.
__device__ void AttendParts(const AttentionParams& params, WarpRow& warp_row,
                            const DecodeItem& item, uint32_t head) {
  for (int32_t i = 0; i < item.num_segments; ++i) {
    const State state = warp_row.Segment(item.first_segment + i);
    float* partial = PartialOf(params, item, item.part + i);
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) {
      const uint32_t column = WarpRow::Lane() + 32 * c;
      if (column < params.args.head_dim) {
        partial[head * params.args.head_dim + column] = state.values[c];
      }
    }
    if (WarpRow::Lane() == 0) {
      *reinterpret_cast<float2*>(partial + PartialExponents(params, head)) =
          make_float2(state.maximum, state.sum);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    DecodeF32(const __grid_constant__ AttentionParams params, const DecodeItem* items,
              const uint32_t* num_items) {
  __shared__ WarpShared warps[kWarps];
  __shared__ uint32_t last;
  const uint32_t warp = threadIdx.x / 32;
  WaitForPrimary();
  LetSecondaryStart();
  const uint32_t num_work = *num_items * params.args.num_kv_heads;
  for (uint32_t index = blockIdx.x; index < num_work; index += gridDim.x) {
    const DecodeWork work = LoadDecodeWork<kAllHeads>(params, items, index);
    for (uint32_t i = warp; i < params.group; i += kWarps) {
      const uint32_t head = work.kv_head * params.group + i;
      WarpRow row(params, &warps[warp], work.item.row, head);
      if (work.item.num_items > 1) {
        AttendParts(params, row, work.item, head);
      } else {
        AttendRow(params, row, work.item.row, head, work.item.first_segment,
                  work.item.first_segment + work.item.num_segments);
      }
    }
    if (work.item.num_items == 1) continue;
    uint32_t* arrivals = params.args.arrivals +
                         static_cast<size_t>(work.item.first_part) * params.args.num_kv_heads +
                         work.kv_head;
    if (ArriveLast(arrivals, work.item.num_items, &last)) {
      MergeParts<float>(params, work.item, work.kv_head);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    PrefillF32(const __grid_constant__ AttentionParams params, const PrefillTile* tiles) {
  __shared__ WarpShared warps[kWarps];
  const uint32_t warp = threadIdx.x / 32;
  WaitForPrimary();
  LetSecondaryStart();
  const uint32_t index = gridDim.x - 1 - blockIdx.x;  // later tiles take longer: they go first
  const PrefillTile tile = tiles[index / params.args.num_kv_heads];
  const uint32_t kv_head = index % params.args.num_kv_heads;
  for (uint32_t i = warp; i < tile.num_rows * params.group; i += kWarps) {
    const int32_t row = tile.first_row + static_cast<int32_t>(i / params.group);
    const uint32_t head = kv_head * params.group + i % params.group;
    WarpRow warp_row(params, &warps[warp], row, head);
    const int32_t segment_size = static_cast<int32_t>(kAttentionSegment);
    AttendRow(params, warp_row, row, head, 0, warp_row.position() / segment_size + 1);
  }
}

}  // namespace

template <>
cudaError_t AttentionKernels<DType::kF32>::Decode(const AttentionParams& params,
                                                  const DecodeItem* items,
                                                  const uint32_t* num_items, uint32_t num_blocks,
                                                  cudaStream_t stream) {
  return LaunchAttention(DecodeF32, num_blocks, kThreads, 0, stream, params, items, num_items);
}

template <>
cudaError_t AttentionKernels<DType::kF32>::Prefill(const AttentionParams& params,
                                                   const PrefillTile* tiles, uint32_t num_tiles,
                                                   cudaStream_t stream) {
  return LaunchAttention(PrefillF32, num_tiles * params.args.num_kv_heads, kThreads, 0, stream,
                         params, tiles);
}

template <>
cudaError_t AttentionKernels<DType::kF32>::DecodeBlocks(const AttentionParams& /*params*/,
                                                        int* num_blocks) {
  return ResidentBlocks(DecodeF32, kThreads, 0, num_blocks);
}

}  // namespace quire::cuda
