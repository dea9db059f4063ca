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

  const int64_t column = panel * kPanelWidth;
  StoreArgs store;
  store.acc = acc;
  store.acc_row_floats = width;
  store.rows = static_cast<int>(rows);
  store.columns = static_cast<int>(std::min(width, weights.n() - column));
  store.bias = product.bias == nullptr ? nullptr : product.bias + column;
  store.y = product.y + (row_begin * product.y_row_elements + column) * product.y_element_bytes;
  store.y_row_elements = product.y_row_elements;
  product.store(store);
}

void Multiply(ThreadContext& context, const Product& product) {
  if (product.m == 0) return;
  const int64_t num_panels = product.weights->num_panels();
  const int64_t num_row_blocks = CeilDiv(product.m, kMaxBlockRows);
  context.ForEachChunk(num_row_blocks * num_panels, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row_block = begin / num_panels;
      const int64_t row_begin = PartBegin(product.m, num_row_blocks, row_block);
      const int64_t rows = PartBegin(product.m, num_row_blocks, row_block + 1) - row_begin;
      const int64_t panel = begin % num_panels;
      const int64_t panels_left = std::min(end - begin, num_panels - panel);
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
Product MakeProduct(const TileTable& tiles, StoreFn store, int64_t m, const X* x,
                    const PackedWeights& weights, Y* y, const GemmOptions& options) {
  QUIRE_CHECK(m >= 0);
  Product product;
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
  Multiply(context, MakeProduct(kernels.bf16, kernels.store_bf16, m, x, weights, y, options));
}

void Gemm(ThreadContext& context, Isa isa, int64_t m, const Bf16* x, const PackedWeights& weights,
          float* y, const GemmOptions& options) {
  QUIRE_CHECK(weights.dtype() == GemmDtype::kBf16);
  const MicroKernels& kernels = KernelsOf(isa);
  Multiply(context, MakeProduct(kernels.bf16, kernels.store_fp32, m, x, weights, y, options));
}

void Gemm(ThreadContext& context, Isa isa, int64_t m, const float* x, const PackedWeights& weights,
          float* y, const GemmOptions& options) {
  QUIRE_CHECK(weights.dtype() == GemmDtype::kFp32);
  const MicroKernels& kernels = KernelsOf(isa);
  Multiply(context, MakeProduct(kernels.fp32, kernels.store_fp32, m, x, weights, y, options));
}

}  // namespace quire
