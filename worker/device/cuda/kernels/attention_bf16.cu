#include <type_traits>

#include "worker/device/cuda/kernels/attention_mma_inl.cuh"

// kExact is AttentionArgs::exact.
namespace quire::cuda {
namespace {

// --- Decoding ------------------------------------------------------------------------------------
// A thread block takes one (item, KV head) after the other. Its warps share a tile: each computes
// the scores of 16 keys, then, all knowing all scores, each repeats the softmax and adds the values
// of a quarter of the columns. Copies run kStages - 1 tiles ahead, over the borders of items.

constexpr uint32_t kDecodeStages = 3;
constexpr uint32_t kRowsPerMatrix = 16;

// What an item counts its keys in.
template <bool kExact>
constexpr uint32_t kItemTiles = kExact ? kTilesPerSegment : 1;

// Thread blocks that a multiprocessor's shared memory holds.
template <int kHeadDim>
constexpr int kDecodeResidentBlocks = kHeadDim == 64    ? 4
                                      : kHeadDim == 128 ? 2
                                                        : 1;

// The scores of a tile, in the order that lanes hold them.
template <int kHalves>
using LaneScores = std::conditional_t<kHalves == 1, float2, float4>;

template <int kHeadDim, int kHalves>
struct DecodeShared {
  static constexpr uint32_t kScores = kDecodeStages * Stage<kHeadDim>::kBytes;
  static constexpr uint32_t kLast = kScores + kTileSize / 8 * 32 * sizeof(LaneScores<kHalves>);
  static constexpr uint32_t kBytes = kLast + 16;
};

// The tiles of a thread block's work in order, copied ahead of their use.
template <int kHeadDim, bool kExact>
class TileStream {
 public:
  __device__ TileStream(const AttentionParams& params, const DecodeItem* items, uint32_t num_work)
      : params_(params), items_(items), num_work_(num_work), next_(blockIdx.x), copier_(params) {
    Advance();
  }

  // Starts copying the next tile to a stage; an empty group where there is none.
  __device__ void CopyNext(uint32_t stage) {
    if (tile_ < end_tile_) {
      copier_.Copy(stage);
      ++tile_;
      Advance();
    }
    CommitCopies();
  }

 private:
  // Finds the next tile, which may be in a later item, and looks up where it lies: well before it
  // is copied, so that no one waits for the block table.
  __device__ void Advance() {
    while (tile_ >= end_tile_) {
      if (next_ >= num_work_) return;
      const DecodeWork work =
          LoadDecodeWork<kRowsPerMatrix, kItemTiles<kExact>>(params_, items_, next_);
      next_ += gridDim.x;
      tile_ = work.tile;
      end_tile_ = work.end_tile;
      table_ = work.table;
      kv_head_ = work.kv_head;
      position_ = work.position;
    }
    copier_.Locate(table_, kv_head_, tile_, position_);
  }

  const AttentionParams& params_;
  const DecodeItem* items_;
  uint32_t num_work_;
  uint32_t next_;
  TileCopier<kHeadDim> copier_;
  uint32_t tile_ = 0;
  uint32_t end_tile_ = 0;
  const int32_t* table_ = nullptr;
  uint32_t kv_head_ = 0;
  int32_t position_ = -1;
};

// Writes a warp's columns of a segment's state as a partial result of its row.
template <int kHalves, int kColumns>
__device__ void StorePartial(const AttentionParams& params, const DecodeWork& work,
                             uint32_t num_heads, uint32_t first_column, int32_t part,
                             const SegmentState<kHalves, kColumns>& segment) {
  float* partial = PartialOf(params, work.item, part);
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const float sum = QuadSum(segment.sum[half]);
    const uint32_t row = Lane() / 4 + 8 * half;
    if (row >= num_heads) continue;
    const uint32_t head = work.kv_head * params.group + work.first_head + row;
    float* values = partial + head * params.args.head_dim;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const uint32_t column = first_column + 8 * n + 2 * (Lane() % 4);
      if (column < params.args.head_dim) {
        *reinterpret_cast<float2*>(values + column) =
            make_float2(segment.values[n][2 * half], segment.values[n][2 * half + 1]);
      }
    }
    if (Warp() == 0 && Lane() % 4 == 0) {
      *reinterpret_cast<float2*>(partial + PartialExponents(params, head)) =
          make_float2(segment.maximum[half], sum);
    }
  }
}

template <int kHeadDim, int kHalves, bool kExact>
__global__ void __launch_bounds__(kAttentionThreads, kDecodeResidentBlocks<kHeadDim>)
    DecodeBf16(const __grid_constant__ AttentionParams params, const DecodeItem* items,
               const uint32_t* num_items) {
  constexpr int kColumns = kHeadDim / kAttentionWarps;  // of a warp
  using Shared = DecodeShared<kHeadDim, kHalves>;
  using Scores = LaneScores<kHalves>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t stages = SharedAddress(shared);
  Scores* const lane_scores = reinterpret_cast<Scores*>(shared + Shared::kScores) + Lane();
  uint32_t* const last = reinterpret_cast<uint32_t*>(shared + Shared::kLast);
  const uint32_t first_column = Warp() * kColumns;

  // Items, slots, positions and block tables were there before the step began; queries and the
  // newest keys and values are the work of the kernel before.
  const uint32_t pieces = GroupPieces<kRowsPerMatrix>(params);
  const uint32_t num_work = *num_items * params.args.num_kv_heads * pieces;
  if (blockIdx.x >= num_work && blockIdx.x > 0) return;
  TileStream<kHeadDim, kExact> stream(params, items, num_work);
  WaitForPrimary();
  LetSecondaryStart();
  for (uint32_t stage = 0; stage + 1 < kDecodeStages; ++stage) {
    stream.CopyNext(stages + stage * Stage<kHeadDim>::kBytes);
  }

  uint32_t stage = 0;
  for (uint32_t index = blockIdx.x; index < num_work; index += gridDim.x) {
    const DecodeWork work =
        LoadDecodeWork<kRowsPerMatrix, kItemTiles<kExact>>(params, items, index);
    const uint32_t num_heads = min(params.group - work.first_head, kRowsPerMatrix);
    const size_t first_head = work.kv_head * params.group + work.first_head;
    const auto row_of = [&](auto* base, size_t stride, uint32_t row) {
      return base + work.item.row * stride + (first_head + row) * params.args.head_dim;
    };
    const auto query_row = [&](uint32_t row) -> const uint16_t* {
      if (row >= num_heads) return nullptr;
      return row_of(static_cast<const uint16_t*>(params.args.queries), params.args.query_stride,
                    row);
    };
    const QueryInRegisters<kHeadDim> query(query_row(Lane() / 4),
                                           kHalves == 2 ? query_row(Lane() / 4 + 8) : nullptr,
                                           params.args.head_dim, nullptr);
    int32_t positions[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) positions[half] = work.position;

    RowState<kHalves, kColumns> row_state;
    SegmentState<kHalves, kColumns> segment;
    segment.Reset();
    // Of a row with several items: the next partial result to be written, and its segment.
    const bool splits = work.item.num_items > 1;
    int32_t part = work.item.part;
    const auto store_part = [&] {
      StorePartial(params, work, num_heads, first_column, part++, segment);
      segment.Reset();
    };
    if constexpr (kExact) {
      const int32_t first_seen =
          min(static_cast<int32_t>(work.tile / kTilesPerSegment) - work.item.first_segment,
              work.item.num_segments);
      if (splits) {
        while (part < work.item.part + first_seen) store_part();
      }
    }
    for (uint32_t tile = work.tile; tile < work.end_tile; ++tile) {
      WaitForCopies<kDecodeStages - 2>();
      __syncthreads();  // the tile is here, and no one uses the stage before it any more
      const uint32_t free_stage = stage == 0 ? kDecodeStages - 1 : stage - 1;
      stream.CopyNext(stages + free_stage * Stage<kHeadDim>::kBytes);

      const uint32_t keys = stages + stage * Stage<kHeadDim>::kBytes;
      float own_scores[2][4];
      ComputeScores<kHeadDim, 1>(query, keys + 16 * Warp() * Stage<kHeadDim>::kRowBytes,
                                 own_scores);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float(&s)[4] = own_scores[n];
        Scores& to = lane_scores[(2 * Warp() + n) * 32];
        to.x = s[0];
        to.y = s[1];
        if constexpr (kHalves == 2) {
          to.z = s[2];
          to.w = s[3];
        }
      }
      __syncthreads();
      float scores[kTileSize / 8][4];
#pragma unroll
      for (int n = 0; n < kTileSize / 8; ++n) {
        const Scores from = lane_scores[n * 32];
        scores[n][0] = from.x;
        scores[n][1] = from.y;
        if constexpr (kHalves == 2) {
          scores[n][2] = from.z;
          scores[n][3] = from.w;
        }
      }
      const int32_t position = static_cast<int32_t>(tile) * kTileSize;
      if (position < work.first_key || position + kTileSize - 1 > work.position) {
        MaskScores<kHalves>(params, position, positions, scores);
      }
      uint4 weights[kTileSize / 16];
      SoftmaxStep<kHalves>(params.exponent_scale, scores, segment, weights);
      AddValues<kHeadDim, kColumns / 16>(weights, keys + Stage<kHeadDim>::kTileBytes, first_column,
                                         segment.values);
      stage = stage + 1 == kDecodeStages ? 0 : stage + 1;
      if constexpr (kExact) {
        const bool ends_segment =
            tile % kTilesPerSegment == kTilesPerSegment - 1 || tile + 1 == work.end_tile;
        if (ends_segment && splits) {
          store_part();
        } else if (ends_segment) {
          row_state.Merge(segment);
          segment.Reset();
        }
      }
    }
    if constexpr (!kExact) {
      if (splits) {
        store_part();
      } else {
        row_state.Merge(segment);
      }
    }

    if (splits) {
      if constexpr (kExact) {
        while (part < work.item.part + work.item.num_segments) store_part();
      }
      uint32_t* arrivals = params.args.arrivals +
                           static_cast<size_t>(work.item.first_part) * params.args.num_kv_heads +
                           work.kv_head;
      if (ArriveLast(arrivals, work.item.num_items * pieces, last)) {
        MergeParts<uint16_t>(params, work.item, work.kv_head);
      }
      continue;
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const uint32_t row = Lane() / 4 + 8 * half;
      if (row < num_heads) {
        row_state.Store(half,
                        row_of(static_cast<uint16_t*>(params.args.outputs),
                               size_t{params.args.num_heads} * params.args.head_dim, row),
                        first_column, params.args.head_dim);
      }
    }
  }
}

// --- Prefill -------------------------------------------------------------------------------------
// A thread block takes 64 query rows of a tile and a KV head, (position, head of the group) pairs,
// 16 a warp. A group of more than 64 heads takes several blocks.

// What a head_dim leaves room for: 128 threads' registers hold queries and sums up to 128 columns.
template <int kHeadDim>
struct PrefillShape {
  static constexpr bool kInRegisters = kHeadDim <= 128;
  static constexpr uint32_t kStages = 2;
  static constexpr int kResidentBlocks = kHeadDim == 64 ? 3 : kHeadDim == 128 ? 2 : 1;
  using Query =
      std::conditional_t<kInRegisters, QueryInRegisters<kHeadDim>, QueryInShared<kHeadDim>>;
  using State = RowState<
      2, kHeadDim,
      std::conditional_t<kInRegisters, SumsInRegisters<2, kHeadDim>, SumsInShared<2, kHeadDim>>>;
  static constexpr uint32_t kQuery = kStages * Stage<kHeadDim>::kBytes;  // byte offsets
  static constexpr uint32_t kState = kQuery + Query::kSharedBytes;
  static constexpr uint32_t kBytes = kState + State::kSharedBytes;
};

constexpr uint32_t kPrefillRows = kRowsPerMatrix * kAttentionWarps;

// Thread blocks that a tile and KV head take.
inline __host__ __device__ uint32_t PrefillPasses(const AttentionParams& params) {
  return (params.group + kPrefillRows - 1) / kPrefillRows;
}

template <int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads, PrefillShape<kHeadDim>::kResidentBlocks)
    PrefillBf16(const __grid_constant__ AttentionParams params, const PrefillTile* tiles) {
  using Shape = PrefillShape<kHeadDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t stages = SharedAddress(shared);

  WaitForPrimary();
  LetSecondaryStart();
  // Later tiles take longer: they go first.
  const uint32_t index = gridDim.x - 1 - blockIdx.x;
  const uint32_t kv_head = index % params.args.num_kv_heads;
  const uint32_t passes = PrefillPasses(params);
  const uint32_t pass = index / params.args.num_kv_heads % passes;
  const PrefillTile of = tiles[index / params.args.num_kv_heads / passes];
  const uint32_t num_rows = of.num_rows * params.group;
  const auto position_of = [&](uint32_t row) {
    return params.args.row_positions[of.first_row + row / params.group];
  };

  // The block's keys.
  const uint32_t first_row = pass * kPrefillRows;
  if (first_row >= num_rows) return;
  const uint32_t last_row = min(first_row + kPrefillRows, num_rows) - 1;
  const int32_t last_position = position_of(last_row);
  const uint32_t first_tile = FirstKey(params, position_of(first_row)) / kTileSize;
  const uint32_t end_tile = last_position / kTileSize + 1;
  const int32_t* table =
      params.args.block_tables +
      static_cast<size_t>(params.args.row_slots[of.first_row]) * params.args.table_stride;

  TileCopier<kHeadDim> copier(params);
  uint32_t next_tile = first_tile;
  copier.Locate(table, kv_head, next_tile, last_position);
  const auto copy_next = [&](uint32_t stage) {
    if (next_tile < end_tile) {
      copier.Copy(stages + stage * Stage<kHeadDim>::kBytes);
      copier.Locate(table, kv_head, ++next_tile, last_position);
    }
    CommitCopies();
  };
  for (uint32_t stage = 0; stage + 1 < Shape::kStages; ++stage) copy_next(stage);

  // The positions of the warp's rows, which see nothing if there are none, and of the lane's.
  const uint32_t warp_row = first_row + Warp() * kRowsPerMatrix;
  const bool has_rows = warp_row <= last_row;
  const int32_t low = has_rows ? position_of(warp_row) : 0;
  const int32_t high = has_rows ? position_of(min(warp_row + kRowsPerMatrix - 1, last_row)) : -1;
  int32_t positions[2];
  const uint16_t* query_rows[2];  // null where there is no row
  int32_t output_rows[2];         // of head_dim elements; negative where there is none
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t row = warp_row + Lane() / 4 + 8 * half;
    positions[half] = -1;
    query_rows[half] = nullptr;
    output_rows[half] = -1;
    if (row > last_row) continue;
    positions[half] = position_of(row);
    const uint32_t batch_row = of.first_row + row / params.group;
    const uint32_t head = kv_head * params.group + row % params.group;
    query_rows[half] = static_cast<const uint16_t*>(params.args.queries) +
                       size_t{batch_row} * params.args.query_stride + head * params.args.head_dim;
    output_rows[half] = static_cast<int32_t>(batch_row * params.args.num_heads + head);
  }
  const typename Shape::Query query(query_rows[0], query_rows[1], params.args.head_dim,
                                    shared + Shape::kQuery);

  typename Shape::State row_state(shared + Shape::kState);
  SegmentState<2, kHeadDim> segment;
  segment.Reset();
  uint32_t stage = 0;
  for (uint32_t tile = first_tile; tile < end_tile; ++tile) {
    WaitForCopies<Shape::kStages - 2>();
    __syncthreads();  // the tile is here, and no one uses the stage before it any more
    copy_next(stage == 0 ? Shape::kStages - 1 : stage - 1);
    const uint32_t keys = stages + stage * Stage<kHeadDim>::kBytes;
    const int32_t position = static_cast<int32_t>(tile) * kTileSize;
    if (position <= high && position + kTileSize > FirstKey(params, low)) {
      float scores[kTileSize / 8][4];
      ComputeScores<kHeadDim, kTileSize / 16>(query, keys, scores);
      if (position < FirstKey(params, high) || position + kTileSize - 1 > low) {
        MaskScores<2>(params, position, positions, scores);
      }
      uint4 weights[kTileSize / 16];
      SoftmaxStep<2>(params.exponent_scale, scores, segment, weights);
      AddValues<kHeadDim, kHeadDim / 16>(weights, keys + Stage<kHeadDim>::kTileBytes, 0,
                                         segment.values);
      if (tile % kTilesPerSegment == kTilesPerSegment - 1 || position + kTileSize > high) {
        row_state.Merge(segment);
        segment.Reset();
      }
    }
    stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (output_rows[half] < 0) continue;
    uint16_t* row = static_cast<uint16_t*>(params.args.outputs) +
                    static_cast<size_t>(output_rows[half]) * params.args.head_dim;
    row_state.Store(half, row, 0, params.args.head_dim);
  }
}

// --- Launches ------------------------------------------------------------------------------------

// Calls `use` with the smallest head_dim that there is a kernel for and that holds the model's.
template <typename Use>
cudaError_t WithHeadDim(const AttentionParams& params, Use use) {
  if (params.args.head_dim <= 64) return use(std::integral_constant<int, 64>());
  if (params.args.head_dim <= 128) return use(std::integral_constant<int, 128>());
  return use(std::integral_constant<int, 256>());
}

// The same, with the halves of a matrix's rows that the heads of a group fill, and whether to be
// exact.
template <typename Use>
cudaError_t WithDecodeShape(const AttentionParams& params, Use use) {
  return WithHeadDim(params, [&](auto head_dim) {
    const auto with_halves = [&](auto halves) {
      if (params.args.exact) return use(head_dim, halves, std::true_type());
      return use(head_dim, halves, std::false_type());
    };
    if (params.group <= 8) return with_halves(std::integral_constant<int, 1>());
    return with_halves(std::integral_constant<int, 2>());
  });
}

}  // namespace

template <>
cudaError_t AttentionKernels<DType::kBF16>::Decode(const AttentionParams& params,
                                                   const DecodeItem* items,
                                                   const uint32_t* num_items, uint32_t num_blocks,
                                                   cudaStream_t stream) {
  return WithDecodeShape(params, [&](auto head_dim, auto halves, auto exact) {
    return LaunchAttention(DecodeBf16<head_dim(), halves(), exact()>, num_blocks, kAttentionThreads,
                           DecodeShared<head_dim(), halves()>::kBytes, stream, params, items,
                           num_items);
  });
}

template <>
cudaError_t AttentionKernels<DType::kBF16>::Prefill(const AttentionParams& params,
                                                    const PrefillTile* tiles, uint32_t num_tiles,
                                                    cudaStream_t stream) {
  const uint32_t num_blocks = num_tiles * PrefillPasses(params) * params.args.num_kv_heads;
  return WithHeadDim(params, [&](auto head_dim) {
    return LaunchAttention(PrefillBf16<head_dim()>, num_blocks, kAttentionThreads,
                           PrefillShape<head_dim()>::kBytes, stream, params, tiles);
  });
}

template <>
cudaError_t AttentionKernels<DType::kBF16>::DecodeBlocks(const AttentionParams& params,
                                                         int* num_blocks) {
  return WithDecodeShape(params, [&](auto head_dim, auto halves, auto exact) {
    return ResidentBlocks(DecodeBf16<head_dim(), halves(), exact()>, kAttentionThreads,
                          DecodeShared<head_dim(), halves()>::kBytes, num_blocks);
  });
}

}  // namespace quire::cuda
