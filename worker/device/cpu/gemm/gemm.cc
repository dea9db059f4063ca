#include "worker/device/cpu/gemm/gemm.h"

#include <algorithm>

#include "scheduler/check.h"
#include "worker/device/cpu/gemm/micro_kernels.h"

namespace quire {
namespace {

using gemm_internal::MicroKernels;
using gemm_internal::StoreArgs;
using gemm_internal::StoreFn;
using gemm_internal::TileArgs;
using gemm_internal::TileTable;

constexpr int kPanelWidth = PackedWeights::kPanelWidth;
static_assert(kPanelWidth == gemm_internal::kPanelWidth);
static_assert(PackedWeights::kStepBytes == gemm_internal::kStepBytes);

// Rows that share one pass over the weights: their inputs to a block of K stay in the second-level
// cache.
constexpr int64_t kMaxBlockRows = 192;

// Steps of K whose weights and inputs stay in the caches while several tiles of rows use them: a
// panel's 64 KiB in the second level, a tile's inputs of 28 KiB in the first.
constexpr int64_t kMaxBlockSteps = 512;

// bf16 on paths that widen it for the fp32 tiles: from how many rows on, steps of K at a time (the
// widened panel of 24 KiB stays in the first-level cache, the rows in the second) and panels that
// share the widened rows.
constexpr int64_t kMinWidenedRows = 24;
constexpr int64_t kWidenedSteps = 96;
constexpr int64_t kMaxWidenedPanels = 4;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

const MicroKernels& KernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      break;
    case Isa::kAvx2:
      return gemm_internal::kAvx2Kernels;
    case Isa::kAvx512:
      return gemm_internal::kAvx512Kernels;
    case Isa::kAvx512Bf16:
      return gemm_internal::kAvx512Bf16Kernels;
  }
  return gemm_internal::kPortableKernels;
}

// One call's operands, seen as bytes.
struct Product {
  const MicroKernels* kernels;
  const TileTable* tiles;
  StoreFn store;
  const PackedWeights* weights;
  const float* bias;
  int64_t m;
  const char* x;
  int64_t x_row_bytes;
  char* y;
  int64_t y_row_elements;
  int y_element_bytes;
};

// Part i of `total` split into `parts` nearly equal ones: where it begins.
int64_t PartBegin(int64_t total, int64_t parts, int64_t i) { return total * i / parts; }

// Adds the bias to accumulators of `width` outputs from `panel` on, rounds them and writes them to
// y.
void StorePanels(const Product& product, int64_t row_begin, int64_t rows, int64_t panel,
                 int64_t width, const float* acc) {
  const int64_t column = panel * kPanelWidth;
  StoreArgs store;
  store.acc = acc;
  store.acc_row_floats = width;
  store.rows = static_cast<int>(rows);
  store.columns = static_cast<int>(std::min(width, product.weights->n() - column));
  store.bias = product.bias == nullptr ? nullptr : product.bias + column;
  store.y = product.y + (row_begin * product.y_row_elements + column) * product.y_element_bytes;
  store.y_row_elements = product.y_row_elements;
  product.store(store);
}

// Rows [row_begin, row_begin + rows) by 2^log2_panels panels from `panel` on.
void MultiplyPanels(const Product& product, int64_t row_begin, int64_t rows, int64_t panel,
                    int log2_panels) {
  constexpr int kStepBytesX = 4;
  const PackedWeights& weights = *product.weights;
  const int64_t width = int64_t{kPanelWidth} << log2_panels;
  const bool half_step = weights.dtype() == GemmDtype::kBf16 && weights.k() % 2 != 0;
  const int64_t whole_steps = weights.steps() - (half_step ? 1 : 0);
  const int64_t num_tiles = CeilDiv(rows, product.tiles->max_rows);
  const int64_t num_blocks =
      num_tiles == 1 ? 1 : std::max<int64_t>(1, CeilDiv(whole_steps, kMaxBlockSteps));

  alignas(64) float acc[kMaxBlockRows * kPanelWidth];
  TileArgs args;
  args.x_row_bytes = product.x_row_bytes;
  args.panel_bytes = weights.steps() * PackedWeights::kStepBytes;
  for (int64_t block = 0; block < num_blocks; ++block) {
    const int64_t step = PartBegin(whole_steps, num_blocks, block);
    args.steps = PartBegin(whole_steps, num_blocks, block + 1) - step;
    args.half_step = half_step && block + 1 == num_blocks;
    args.resume = block > 0;
    args.weights = weights.panel(panel) + step * PackedWeights::kStepBytes;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t row = PartBegin(rows, num_tiles, tile);
      const int64_t tile_rows = PartBegin(rows, num_tiles, tile + 1) - row;
      args.x = product.x + (row_begin + row) * product.x_row_bytes + step * kStepBytesX;
      args.acc = acc + row * width;
      product.tiles->tile[tile_rows][log2_panels](args);
    }
  }
  StorePanels(product, row_begin, rows, panel, width, acc);
}

// The same over fp32 copies of bf16 operands. REQUIRES: num_panels <= kMaxWidenedPanels.
void MultiplyWidened(const Product& product, int64_t row_begin, int64_t rows, int64_t panel,
                     int64_t num_panels) {
  constexpr int64_t kRowFloats = 2 * kWidenedSteps;
  const PackedWeights& weights = *product.weights;
  const TileTable& tiles = product.kernels->fp32;
  const int64_t num_tiles = CeilDiv(rows, tiles.max_rows);

  alignas(64) float acc[kMaxWidenedPanels][kMaxBlockRows * kPanelWidth];
  alignas(64) float x[kMaxBlockRows * kRowFloats];
  alignas(64) float w[kRowFloats * kPanelWidth];
  TileArgs args;
  args.x_row_bytes = kRowFloats * sizeof(float);
  args.panel_bytes = 0;  // one panel a tile
  args.weights = w;
  args.half_step = false;
  for (int64_t step = 0; step < weights.steps(); step += kWidenedSteps) {
    const int64_t steps = std::min(kWidenedSteps, weights.steps() - step);
    const int64_t count = std::min(2 * steps, weights.k() - 2 * step);
    for (int64_t row = 0; row < rows; ++row) {
      const char* from = product.x + (row_begin + row) * product.x_row_bytes;
      product.kernels->widen_row(from + 2 * step * sizeof(Bf16), count, x + row * kRowFloats);
    }
    args.steps = 2 * steps;
    args.resume = step > 0;
    for (int64_t p = 0; p < num_panels; ++p) {
      product.kernels->widen_panel(weights.panel(panel + p) + step * PackedWeights::kStepBytes,
                                   steps, w);
      for (int64_t tile = 0; tile < num_tiles; ++tile) {
        const int64_t row = PartBegin(rows, num_tiles, tile);
        args.x = x + row * kRowFloats;
        args.acc = acc[p] + row * kPanelWidth;
        tiles.tile[PartBegin(rows, num_tiles, tile + 1) - row][0](args);
      }
    }
  }
  for (int64_t p = 0; p < num_panels; ++p) {
    StorePanels(product, row_begin, rows, panel + p, kPanelWidth, acc[p]);
  }
}

void Multiply(ThreadContext& context, const Product& product) {
  if (product.m == 0) return;
  const int64_t num_panels = product.weights->num_panels();
  const int64_t num_row_blocks = CeilDiv(product.m, kMaxBlockRows);
  const bool widens =
      product.weights->dtype() == GemmDtype::kBf16 && product.kernels->widen_panel != nullptr;
  context.ForEachChunk(num_row_blocks * num_panels, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row_block = begin / num_panels;
      const int64_t row_begin = PartBegin(product.m, num_row_blocks, row_block);
      const int64_t rows = PartBegin(product.m, num_row_blocks, row_block + 1) - row_begin;
      const int64_t panel = begin % num_panels;
      const int64_t panels_left = std::min(end - begin, num_panels - panel);
      if (widens && rows >= kMinWidenedRows) {
        const int64_t panels = std::min(kMaxWidenedPanels, panels_left);
        MultiplyWidened(product, row_begin, rows, panel, panels);
        begin += panels;
        continue;
      }
      int log2_panels = 0;
      while (log2_panels < 2 && panels_left >= 2 << log2_panels &&
             rows <= product.tiles->max_rows &&
             product.tiles->tile[rows][log2_panels + 1] != nullptr) {
        ++log2_panels;
      }
      MultiplyPanels(product, row_begin, rows, panel, log2_panels);
      begin += 1 << log2_panels;
    }
  });
}

template <typename X, typename Y>
Product MakeProduct(const MicroKernels& kernels, const TileTable& tiles, StoreFn store, int64_t m,
                    const X* x, const PackedWeights& weights, Y* y, const GemmOptions& options) {
  QUIRE_CHECK(m >= 0);
  Product product;
  product.kernels = &kernels;
  product.tiles = &tiles;
  product.store = store;
  product.weights = &weights;
  product.bias = options.bias;
  product.m = m;
  product.x = reinterpret_cast<const char*>(x);
  product.x_row_bytes = (options.x_stride == 0 ? weights.k() : options.x_stride) * sizeof(X);
  product.y = reinterpret_cast<char*>(y);
  product.y_row_elements = options.y_stride == 0 ? weights.n() : options.y_stride;
  product.y_element_bytes = sizeof(Y);
  return product;
}

}  // namespace

void Gemm(ThreadContext& context, Isa isa, int64_t m, const Bf16* x, const PackedWeights& weights,
          Bf16* y, const GemmOptions& options) {
  QUIRE_CHECK(weights.dtype() == GemmDtype::kBf16);
  const MicroKernels& kernels = KernelsOf(isa);
  Multiply(context,
           MakeProduct(kernels, kernels.bf16, kernels.store_bf16, m, x, weights, y, options));
}

void Gemm(ThreadContext& context, Isa isa, int64_t m, const Bf16* x, const PackedWeights& weights,
          float* y, const GemmOptions& options) {
  QUIRE_CHECK(weights.dtype() == GemmDtype::kBf16);
  const MicroKernels& kernels = KernelsOf(isa);
  Multiply(context,
           MakeProduct(kernels, kernels.bf16, kernels.store_fp32, m, x, weights, y, options));
}

void Gemm(ThreadContext& context, Isa isa, int64_t m, const float* x, const PackedWeights& weights,
          float* y, const GemmOptions& options) {
  QUIRE_CHECK(weights.dtype() == GemmDtype::kFp32);
  const MicroKernels& kernels = KernelsOf(isa);
  Multiply(context,
           MakeProduct(kernels, kernels.fp32, kernels.store_fp32, m, x, weights, y, options));
}

}  // namespace quire
