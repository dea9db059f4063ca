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
// leave its state as it was, bitwise. Whatever a block holds beyond a sequence's last position, NaN
// too, has no effect.
namespace quire::cuda {

// Parts of numerics_id.
inline constexpr uint32_t kAttentionSegment = 256;
inline constexpr uint32_t kAttentionTile = 64;

// A row that decodes, or a part of it: segments [first_segment, first_segment + num_segments).
struct DecodeItem {
  int32_t row = 0;
  int32_t first_segment = 0;
  int32_t num_segments = 0;
  // How many items the row has, and where its first one's partial results lie, counted in items. A
  // row with one item writes its output directly.
  int32_t num_parts = 1;
  int32_t first_part = 0;
  int32_t part = 0;  // which of them this is
};

// Consecutive rows of one sequence, at most PrefillTilePositions() of them.
struct PrefillTile {
  int32_t first_row = 0;
  int32_t num_rows = 0;
};

struct AttentionArgs {
  DType dtype = DType::kBF16;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;        // a multiple of 16 up to 256
  uint32_t block_size = 0;      // tokens: a multiple of 16 that divides kAttentionSegment
  uint32_t sliding_window = 0;  // key j is visible to position i iff i − window < j <= i; 0: j <= i
  float scale = 1.0f;

  const void* queries = nullptr;  // head h of row r at queries + r · query_stride + h · head_dim
  uint32_t query_stride = 0;      // elements
  void* outputs = nullptr;        // [rows, num_heads · head_dim]
  const void* kv = nullptr;       // the layer's part of the store (kv_layout.h)

  const int32_t* row_slots = nullptr;      // [rows]
  const int32_t* row_positions = nullptr;  // [rows]
  const int32_t* block_tables = nullptr;   // [num_slots, table_stride]
  uint32_t table_stride = 0;

  // Room for what items of one row leave for each other. `arrivals` is zero before the first launch
  // and after every launch.
  float* partials = nullptr;     // [items with num_parts > 1] x PartialFloats()
  uint32_t* arrivals = nullptr;  // [items with num_parts > 1, num_kv_heads]
};

// Floats that an item with num_parts > 1 needs in `partials`.
size_t PartialFloats(uint32_t num_heads, uint32_t head_dim);

// Positions that a PrefillTile may have: 64 rows of the tile are (position, head of the group).
uint32_t PrefillTilePositions(uint32_t num_heads, uint32_t num_kv_heads);

// Attention of the rows that `items` name. The number of items is read on the device, so that a
// captured launch serves any number of them; `num_blocks` thread blocks share the work.
cudaError_t DecodeAttention(const AttentionArgs& args, const DecodeItem* items,
                            const uint32_t* num_items, uint32_t num_blocks, cudaStream_t stream);

// Attention of the rows that `tiles`, [num_tiles] on the device, name.
cudaError_t PrefillAttention(const AttentionArgs& args, const PrefillTile* tiles,
                             uint32_t num_tiles, cudaStream_t stream);

// Thread blocks of DecodeAttention that the device holds at once.
cudaError_t DecodeAttentionBlocks(const AttentionArgs& args, uint32_t* num_blocks);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_H_
