// Paged attention: one kernel for prompts and for decoding. See simd_inl.h for what kind of header
// this is.
//
// The recipe of a query row, which depends on its query, its keys and values and their positions
// alone. Positions are cut into segments of kAttentionSegment keys from position 0; those in which
// the row sees no key are skipped. In each of the others, in order:
//   s[j]  = scale · q · k[j]: one chain of fused multiply-adds over head_dim; bf16 takes pairs, the
//           odd element first, as the matrix products do. −inf for keys the row does not see
//   m'    = max(m, max s),  a = e^(m − m'),  p[j] = e^(s[j] − m')
//   l     = l · a + sum p: ((p0 + p1) + (p2 + p3)) over the four vectors, then the tree of 16 lanes
//   acc   = acc · a, then acc = fma(p[j], v[j], acc) over the keys the row sees, in order
// and finally out = acc · (1 / l), rounded once. This is the online softmax of Milakov and
// Gimelshein (arXiv:1805.02867) as FlashAttention uses it. Scores and probabilities stay fp32 in
// bf16 as well: Hugging Face's eager path rounds both to bf16, its sdpa path (the default) rounds
// neither scores nor sums, so this is the closer to what the default computes.
//
// Which rows share a call, and so the loads of keys and values, changes nothing: a row's chains are
// its own. Positions that a row does not see are never multiplied, not even with zero, so whatever
// a recycled block holds there, NaN too, has no effect.
#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_ATTENTION_INL_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_ATTENTION_INL_H_

#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/kernels/simd_inl.h"

namespace quire::QUIRE_SIMD {

constexpr int kMaxHeadDim = 256;
constexpr int kSegment = static_cast<int>(kAttentionSegment);
constexpr int kTilesPerSegment = kSegment / 16;
constexpr int kRowGroup = 4;  // rows whose accumulators share the registers

template <typename T>
struct AttentionScratch {
  alignas(64) float queries[kAttentionRows][kMaxHeadDim];
  alignas(64) float sums[kAttentionRows][kMaxHeadDim];
  alignas(64) float scores[kRowGroup][kSegment];  // then probabilities
  float maximum[kAttentionRows];
  float total[kAttentionRows];
  // The current segment: keys by tile of 16 positions, values by position. Null: no row sees it.
  const T* key_tiles[kTilesPerSegment];
  size_t key_stride;  // elements from one head_dim (pair) of a tile to the next
  const T* value_rows[kSegment];
  // Tiles put together from two blocks of 8.
  alignas(64) T gathered[kTilesPerSegment][16 * kMaxHeadDim];
};

// The range of a row within a segment, relative to its start. Empty: begin >= end.
struct KeyRange {
  int begin, end;
};
inline KeyRange RangeIn(uint32_t first, uint32_t end, uint32_t segment_start) {
  const uint32_t segment_end = segment_start + kAttentionSegment;
  const uint32_t low = first > segment_start ? first : segment_start;
  const uint32_t high = end < segment_end ? end : segment_end;
  if (low >= high) return {0, 0};
  return {static_cast<int>(low - segment_start), static_cast<int>(high - segment_start)};
}

// acc[r][t] = q[r] · keys of tile t, for R rows and N tiles.
template <int R, int N>
inline void Dot(const float (*queries)[kMaxHeadDim], const float* const* tiles, size_t stride,
                int head_dim, Vec (*acc)[N]) {
  for (int d = 0; d < head_dim; ++d) {
    Vec key[N];
    for (int t = 0; t < N; ++t) key[t] = Load(tiles[t] + d * stride);
    for (int r = 0; r < R; ++r) {
      const Vec q = Set1(queries[r][d]);
      for (int t = 0; t < N; ++t) acc[r][t] = Fma(q, key[t], acc[r][t]);
    }
  }
}
template <int R, int N>
inline void Dot(const float (*queries)[kMaxHeadDim], const Bf16* const* tiles, size_t stride,
                int head_dim, Vec (*acc)[N]) {
  for (int d = 0; d < head_dim; d += 2) {
    IVec pair[N];
    for (int t = 0; t < N; ++t) {
      pair[t] = ILoad(reinterpret_cast<const uint32_t*>(tiles[t] + d * stride));
    }
    for (int r = 0; r < R; ++r) {
      const Vec q = Set1(queries[r][d + 1]);
      for (int t = 0; t < N; ++t) {
        acc[r][t] = Fma(q, AsFloat(IAnd(pair[t], ISet1(0xFFFF0000))), acc[r][t]);
      }
    }
    for (int r = 0; r < R; ++r) {
      const Vec q = Set1(queries[r][d]);
      for (int t = 0; t < N; ++t) {
        acc[r][t] = Fma(q, AsFloat(ShiftLeft<16>(pair[t])), acc[r][t]);
      }
    }
  }
}

// Scores of R rows against N tiles from `tile` on, unscaled.
template <typename T, int R, int N>
inline void ScoreTiles(AttentionScratch<T>& scratch, int row, int tile, int head_dim) {
  Vec acc[R][N];
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < N; ++t) acc[r][t] = Set1(0);
  }
  Dot<R, N>(scratch.queries + row, scratch.key_tiles + tile, scratch.key_stride, head_dim, acc);
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < N; ++t) Store(scratch.scores[r] + 16 * (tile + t), acc[r][t]);
  }
}

// Adds p[j] · v[j] for positions [begin, end) of the segment to the sums of R rows.
template <typename T, int R, int N>
inline void AddValuesAt(AttentionScratch<T>& scratch, int row, int group_row, int begin, int end,
                        int d) {
  Vec acc[R][N];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < N; ++c) acc[r][c] = Load(scratch.sums[row + r] + d + 16 * c);
  }
  for (int j = begin; j < end; ++j) {
    Vec value[N];
    for (int c = 0; c < N; ++c) value[c] = Load(scratch.value_rows[j] + d + 16 * c);
    for (int r = 0; r < R; ++r) {
      const Vec p = Set1(scratch.scores[group_row + r][j]);
      for (int c = 0; c < N; ++c) acc[r][c] = Fma(p, value[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < N; ++c) Store(scratch.sums[row + r] + d + 16 * c, acc[r][c]);
  }
}
template <typename T, int R>
inline void AddValues(AttentionScratch<T>& scratch, int row, int group_row, int begin, int end,
                      int head_dim) {
  if (begin >= end) return;
  int d = 0;
  for (; d + 64 <= head_dim; d += 64) {
    AddValuesAt<T, R, 4>(scratch, row, group_row, begin, end, d);
  }
  for (; d < head_dim; d += 16) AddValuesAt<T, R, 1>(scratch, row, group_row, begin, end, d);
}

// The softmax step of one row: scores become probabilities; sums and totals are rescaled.
template <typename T>
inline void SoftmaxStep(AttentionScratch<T>& scratch, int row, int group_row, KeyRange range,
                        float scale, int head_dim) {
  float* scores = scratch.scores[group_row];
  Vec s[kTilesPerSegment];
  for (int t = 0; t < kTilesPerSegment; ++t) {
    const int begin = range.begin - 16 * t;
    const int end = range.end - 16 * t;
    if (end <= 0 || begin >= 16) {
      s[t] = Set1(-__builtin_inff());
      continue;
    }
    s[t] = Mul(Load(scores + 16 * t), Set1(scale));
    if (end < 16) s[t] = Select(FirstLanes(end), s[t], Set1(-__builtin_inff()));
    if (begin > 0) s[t] = Select(FirstLanes(begin), Set1(-__builtin_inff()), s[t]);
  }
  const float highest = ReduceMax(Max(Max(s[0], s[1]), Max(s[2], s[3])));
  const float before = scratch.maximum[row];
  const float after = highest > before ? highest : before;
  scratch.maximum[row] = after;
  for (int t = 0; t < kTilesPerSegment; ++t) {
    s[t] = Exp(Sub(s[t], Set1(after)));
    Store(scores + 16 * t, s[t]);
  }
  const float sum = ReduceAdd(Add(Add(s[0], s[1]), Add(s[2], s[3])));
  if (after == before) {  // the factor is 1: nothing changes
    scratch.total[row] += sum;
    return;
  }
  const Vec factor = Exp(Set1(before - after));
  scratch.total[row] = scratch.total[row] * FirstLane(factor) + sum;
  for (int d = 0; d < head_dim; d += 16) {
    Store(scratch.sums[row] + d, Mul(Load(scratch.sums[row] + d), factor));
  }
}

// R rows from `row` on against the segment.
template <typename T, int R>
inline void AttendRows(const AttentionTile<T>& tile, AttentionScratch<T>& scratch, int row,
                       uint32_t segment_start) {
  KeyRange range[R];
  int low = kSegment;         // any row sees keys from here ...
  int high = 0;               // ... to here
  int common_begin = 0;       // all rows see keys from here ...
  int common_end = kSegment;  // ... to here
  for (int r = 0; r < R; ++r) {
    range[r] = RangeIn(tile.first_key[row + r], tile.end_key[row + r], segment_start);
    if (range[r].begin < range[r].end) {
      low = range[r].begin < low ? range[r].begin : low;
      high = range[r].end > high ? range[r].end : high;
    }
    common_begin = range[r].begin > common_begin ? range[r].begin : common_begin;
    common_end = range[r].end < common_end ? range[r].end : common_end;
  }
  if (low >= high) return;

  const int first_tile = low / 16;
  const int end_tile = (high + 15) / 16;
  if (end_tile - first_tile == kTilesPerSegment) {
    ScoreTiles<T, R, kTilesPerSegment>(scratch, row, 0, tile.head_dim);
  } else {
    for (int t = first_tile; t < end_tile; ++t) {
      ScoreTiles<T, R, 1>(scratch, row, t, tile.head_dim);
    }
  }
  for (int r = 0; r < R; ++r) {
    if (range[r].begin < range[r].end) {
      SoftmaxStep(scratch, row + r, r, range[r], tile.scale, tile.head_dim);
    }
  }
  if (common_begin >= common_end) {
    for (int r = 0; r < R; ++r) {
      AddValues<T, 1>(scratch, row + r, r, range[r].begin, range[r].end, tile.head_dim);
    }
    return;
  }
  for (int r = 0; r < R; ++r) {
    AddValues<T, 1>(scratch, row + r, r, range[r].begin, common_begin, tile.head_dim);
  }
  AddValues<T, R>(scratch, row, 0, common_begin, common_end, tile.head_dim);
  for (int r = 0; r < R; ++r) {
    AddValues<T, 1>(scratch, row + r, r, common_end, range[r].end, tile.head_dim);
  }
}

// Sets the pointers to keys and values of positions [first, end), which lie in one segment.
template <typename T>
inline void LocateSegment(const AttentionTile<T>& tile, uint32_t segment_start, uint32_t first,
                          uint32_t end, AttentionScratch<T>& scratch) {
  const uint32_t block_size = tile.block_size;
  for (uint32_t j = first; j < end; ++j) {
    const T* block = tile.values + tile.blocks[j / block_size] * tile.block_stride;
    scratch.value_rows[j - segment_start] =
        block + static_cast<size_t>(j % block_size) * tile.head_dim;
  }
  // Elements of one position in a tile's row: bf16 keys lie in pairs.
  constexpr size_t kWidth = sizeof(float) / sizeof(T);
  scratch.key_stride = block_size >= 16 ? block_size : 16;
  for (uint32_t t = (first - segment_start) / 16; segment_start + 16 * t < end; ++t) {
    const uint32_t start = segment_start + 16 * t;
    const T* block = tile.keys + tile.blocks[start / block_size] * tile.block_stride;
    if (block_size >= 16) {
      scratch.key_tiles[t] = block + kWidth * (start % block_size);
      continue;
    }
    // Two blocks of 8; where no row sees the second, or the first, it may not exist: zeros.
    T* gathered = scratch.gathered[t];
    scratch.key_tiles[t] = gathered;
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t position = start + 8 * half;
      const bool seen = position < end && position + 8 > first;
      const T* from = seen ? tile.keys + tile.blocks[position / 8] * tile.block_stride : nullptr;
      const size_t bytes = 8 * kWidth * sizeof(T);
      for (size_t d = 0; d < tile.head_dim / kWidth; ++d) {
        T* to = gathered + (16 * d + 8 * half) * kWidth;
        if (seen) {
          __builtin_memcpy(to, from + 8 * d * kWidth, bytes);
        } else {
          __builtin_memset(to, 0, bytes);
        }
      }
    }
  }
}

template <typename T>
void Attention(const AttentionTile<T>& tile) {
  AttentionScratch<T> scratch;
  uint32_t first = tile.first_key[0];
  uint32_t end = tile.end_key[0];
  for (int r = 0; r < tile.num_rows; ++r) {
    first = tile.first_key[r] < first ? tile.first_key[r] : first;
    end = tile.end_key[r] > end ? tile.end_key[r] : end;
    scratch.maximum[r] = -__builtin_inff();
    scratch.total[r] = 0;
    for (int d = 0; d < tile.head_dim; d += 16) {
      Store(scratch.queries[r] + d, Load(tile.queries[r] + d));
      Store(scratch.sums[r] + d, Set1(0));
    }
  }
  for (uint32_t start = first / kAttentionSegment * kAttentionSegment; start < end;
       start += kAttentionSegment) {
    const uint32_t segment_end = start + kAttentionSegment;
    LocateSegment(tile, start, first > start ? first : start, end < segment_end ? end : segment_end,
                  scratch);
    int row = 0;
    for (; row + 4 <= tile.num_rows; row += 4) AttendRows<T, 4>(tile, scratch, row, start);
    switch (tile.num_rows - row) {
      case 3:
        AttendRows<T, 3>(tile, scratch, row, start);
        break;
      case 2:
        AttendRows<T, 2>(tile, scratch, row, start);
        break;
      case 1:
        AttendRows<T, 1>(tile, scratch, row, start);
        break;
      default:
        break;
    }
  }
  for (int r = 0; r < tile.num_rows; ++r) {
    const Vec factor = Set1(1.0f / scratch.total[r]);
    for (int d = 0; d < tile.head_dim; d += 16) {
      Store(tile.outputs[r] + d, Mul(Load(scratch.sums[r] + d), factor));
    }
  }
}

}  // namespace quire::QUIRE_SIMD

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_ATTENTION_INL_H_
