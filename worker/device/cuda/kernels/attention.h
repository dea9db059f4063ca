#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "worker/model/dtype.h"

// Paged attention on the GPU: one recipe for prompts and for decoding.
//
// The recipe of a query row, which depends on its query, its keys and values and their positions
// alone. Positions are cut into segments of kAttentionSegment keys from position 0, segments into
// tiles of kAttentionTile. In a segment, tile by tile in order: scores (one chain over head_dim),
// the online softmax, the weighted sum of values (one chain over the tile's keys in order). The
// segments' results are merged in order. How rows share a thread block, and whether a row's
// segments are computed by one block or by many, changes no bit. Tiles in which a row sees no key
// leave its state as it was, bitwise. Whatever a block holds beyond the last position that its
// thread block's rows have, NaN too, has no effect. (A value that is not finite within a prompt's
// chunk may reach earlier rows of the chunk: they are one run, which fails as a whole.)
//
// In bf16 scores and weighted sums are tensor core products with fp32 sums, and probabilities are
// rounded to bf16 before they weigh the values; all else is fp32. Powers below the smallest normal
// number are zero.
//
// All pointers are to device memory. Every function that takes a stream enqueues on it and returns
// the launch's error; it neither allocates nor waits, so it may be captured. cudaErrorInvalidValue:
// a shape or dtype that is not supported. Thread safe.
namespace quire::cuda {

// Parts of numerics_id.
inline constexpr uint32_t kAttentionSegment = 128;
inline constexpr uint32_t kAttentionTile = 64;

// A row that decodes, or some segments of it. Segments in which the row sees no key are allowed and
// cost little, so a bound of the row's position is enough to cut it.
struct DecodeItem {
  int32_t row = 0;
  // Segments [first_segment, first_segment + num_segments). Those of a row's items together are all
  // in which it sees a key.
  int32_t first_segment = 0;
  int32_t num_segments = 0;
  // How many items the row has. One: it writes the row's output directly. More: each leaves a
  // partial result for each of its segments, and the item that ends last merges all of the row's.
  int32_t num_items = 1;
  // For a row with more items: its segments, and where their partial results begin in `partials`,
  // counted in segments. That of the item's first segment lies at first_part + part.
  int32_t num_parts = 0;
  int32_t first_part = 0;
  int32_t part = 0;
};

// Consecutive rows of one sequence, at consecutive positions, at most PrefillTilePositions() of
// them.
struct PrefillTile {
  int32_t first_row = 0;
  int32_t num_rows = 0;
};

struct AttentionArgs {
  DType dtype = DType::kBF16;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;        // a multiple of 16 up to 256
  uint32_t block_size = 0;      // tokens: 16, 32, 64 or 128
  uint32_t sliding_window = 0;  // key j is visible to position i iff i − window < j <= i; 0: j <= i
  float scale = 1.0f;           // > 0
  // Benchmarks only, in bf16, of decoding. Off: a row's bits depend on its company. An item's keys
  // are one online softmax without segments; items are cut at tiles, leave one partial result each,
  // and what DecodeItem counts in segments is counted in tiles (first_segment, num_segments) or in
  // items (num_parts, first_part, part).
  bool exact = true;

  // Aligned to 16 bytes, as are outputs, kv and partials.
  const void* queries = nullptr;  // head h of row r at queries + r · query_stride + h · head_dim
  uint32_t query_stride = 0;      // elements, a multiple of 8
  void* outputs = nullptr;        // [rows, num_heads · head_dim]
  const void* kv = nullptr;       // the layer's part of the store (kv_layout.h)

  // Of the rows that items and tiles name; padding rows are not among them.
  const int32_t* row_slots = nullptr;      // [rows]
  const int32_t* row_positions = nullptr;  // [rows]
  const int32_t* block_tables = nullptr;   // [num_slots, table_stride]
  uint32_t table_stride = 0;

  // Room for what items of one row leave for each other. `arrivals` is zero before the first launch
  // and after every launch.
  float* partials = nullptr;     // [segments of rows with more than one item] x PartialFloats()
  uint32_t* arrivals = nullptr;  // [the same segments, num_kv_heads]
};

// Floats that a segment needs in `partials`.
size_t PartialFloats(uint32_t num_heads, uint32_t head_dim);

// Positions that a PrefillTile may have: its 64 query rows are (position, head of the group) pairs.
uint32_t PrefillTilePositions(uint32_t num_heads, uint32_t num_kv_heads);

// Attention of the rows that `items` name. The number of items is read on the device, so that a
// captured launch serves any number of them; `num_blocks` thread blocks share the work, each taking
// every num_blocks-th (item, KV head).
cudaError_t DecodeAttention(const AttentionArgs& args, const DecodeItem* items,
                            const uint32_t* num_items, uint32_t num_blocks, cudaStream_t stream);

// Attention of the rows that `tiles`, [num_tiles] on the device, name. Fastest when tiles of later
// positions, which take longest, come last: they are started first.
cudaError_t PrefillAttention(const AttentionArgs& args, const PrefillTile* tiles,
                             uint32_t num_tiles, cudaStream_t stream);

// Thread blocks of DecodeAttention that the device holds at once.
cudaError_t DecodeAttentionBlocks(const AttentionArgs& args, uint32_t* num_blocks);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_H_
