#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

// The inner loops of the matrix product, one table an instruction-set path. Internal to this
// folder.
//
// The tables' source files are compiled for their instruction set. So that the linker never picks
// an instance made there of an inline function that others use as well, what they include is this
// header, micro_kernels_impl.h and C headers, and all they define is local to the file.

namespace quire::gemm_internal {

inline constexpr int kMaxTileRows = 14;
inline constexpr int kPanelWidth = 32;
inline constexpr int kStepBytes = 128;

// A tile: `rows` rows of x times `panels` panels of weights, over a range of steps
// (packed_weights.h).
struct TileArgs {
  const void* x;        // the tile's first row, at the range's first k
  int64_t x_row_bytes;  // to the next row
  const void* weights;  // the first panel, at the range's first step
  int64_t panel_bytes;  // to the next panel
  int64_t steps;        // whole steps of the range
  bool half_step;       // bf16, odd k: one more, whose second k does not exist
  bool resume;          // the accumulators go on from `acc`; else from 0
  float* acc;           // [rows][panels * 32]: out, and in if resume
};
using TileFn = void (*)(const TileArgs&);

// Writes accumulators [rows][acc_row_floats] to the first `columns` columns of y, adding bias[0,
// columns) unless null.
struct StoreArgs {
  const float* acc;
  int64_t acc_row_floats;
  int rows;
  int columns;
  const float* bias;
  void* y;
  int64_t y_row_elements;
};
using StoreFn = void (*)(const StoreArgs&);

// The tiles for one element type. tile[rows][i] takes 2^i panels at once, which gives few rows
// enough independent chains to cover an FMA's latency; null where the accumulators would not fit
// registers.
struct TileTable {
  int max_rows;
  TileFn tile[kMaxTileRows + 1][3];
};

// bf16 operands as fp32, for the fp32 tiles: the two elements of each pair change places, so that
// one FMA after the other gives the chain of a pair's products (gemm.h).
//
// A panel's steps: `out` is [2 · steps][32], the second elements of a step before the first ones.
// Asks for the memory behind what it reads, as far on as it reads.
using WidenPanelFn = void (*)(const void* panel, int64_t steps, float* out);
// A row of x: `count` elements; `out` is [2 · ceil(count / 2)], zero in the place of a missing one.
// `out` has room for 16 · ceil(count / 16).
using WidenRowFn = void (*)(const void* x, int64_t count, float* out);

struct MicroKernels {
  TileTable bf16;
  TileTable fp32;
  StoreFn store_bf16;
  StoreFn store_fp32;
  // Null where the bf16 tiles are at least as fast for any number of rows.
  WidenPanelFn widen_panel;
  WidenRowFn widen_row;
};

extern const MicroKernels kPortableKernels;
extern const MicroKernels kAvx2Kernels;
extern const MicroKernels kAvx512Kernels;
extern const MicroKernels kAvx512Bf16Kernels;

}  // namespace quire::gemm_internal

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_H_
