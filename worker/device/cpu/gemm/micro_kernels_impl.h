#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_IMPL_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_IMPL_H_

// The tile and store loops, written once over what an instruction set offers; each
// micro_kernels_*.cc includes this with its own traits, and everything here has internal linkage
// (see micro_kernels.h).
//
// An Elements class says how products are formed:
//   Vec, kLanes    a vector of fp32 accumulators and how many it holds
//   kMaxRows, kMaxAccumulators   what the registers hold
//   XBroadcast LoadX(const char*)      one step of one row of x, in every lane
//   XBroadcast LoadHalfX(const char*)  the same when only its first k exists
//   WVector LoadW(const char*)         one step of kLanes outputs' weights
//   Vec MulAdd(Vec, XBroadcast, WVector)
//   kStepBytesX, kVectorBytesW         bytes of a step in x, and of a WVector
// A Lanes class: Vec, kLanes, Zero, Load, Store, Add, StoreBf16.

#include "worker/device/cpu/gemm/micro_kernels.h"

namespace quire::gemm_internal {
namespace {

#define QUIRE_INLINE inline __attribute__((always_inline))

// How far ahead of its use a panel is asked for: the memory's latency at a core's share of its
// speed.
constexpr int64_t kPrefetchBytes = 2048;

template <typename E, int kRows, int kPanels, bool kHalf>
QUIRE_INLINE void Step(typename E::Vec (&acc)[kRows][kPanels * kPanelWidth / E::kLanes],
                       const char* x, int64_t x_row_bytes, const char* w, int64_t panel_bytes) {
  constexpr int kVectors = kPanelWidth / E::kLanes;
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const char* panel = w + p * panel_bytes;
    __builtin_prefetch(panel + kPrefetchBytes);
    __builtin_prefetch(panel + kPrefetchBytes + 64);
  }
  if constexpr (kRows * kPanels * kVectors > 8 && kVectors <= 2) {
    typename E::WVector weights[kPanels * kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kPanels * kVectors; ++v) {
      weights[v] = E::LoadW(w + v / kVectors * panel_bytes + v % kVectors * E::kVectorBytesW);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename E::XBroadcast value =
          kHalf ? E::LoadHalfX(x + r * x_row_bytes) : E::LoadX(x + r * x_row_bytes);
#pragma GCC unroll 8
      for (int v = 0; v < kPanels * kVectors; ++v) {
        acc[r][v] = E::MulAdd(acc[r][v], value, weights[v]);
      }
    }
  } else {
    typename E::XBroadcast value[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      value[r] = kHalf ? E::LoadHalfX(x + r * x_row_bytes) : E::LoadX(x + r * x_row_bytes);
    }
#pragma GCC unroll 8
    for (int v = 0; v < kPanels * kVectors; ++v) {
      const typename E::WVector weights =
          E::LoadW(w + v / kVectors * panel_bytes + v % kVectors * E::kVectorBytesW);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) acc[r][v] = E::MulAdd(acc[r][v], value[r], weights);
    }
  }
}

template <typename E, int kRows, int kPanels>
void Tile(const TileArgs& args) {
  constexpr int kVectors = kPanels * kPanelWidth / E::kLanes;
  typename E::Vec acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] =
          args.resume ? E::Load(args.acc + r * kPanels * kPanelWidth + v * E::kLanes) : E::Zero();
    }
  }
  const int64_t x_row_bytes = args.x_row_bytes;
  const int64_t panel_bytes = args.panel_bytes;
  const char* x = static_cast<const char*>(args.x);
  const char* w = static_cast<const char*>(args.weights);
  for (int64_t steps = args.steps; steps > 0; --steps) {
    Step<E, kRows, kPanels, false>(acc, x, x_row_bytes, w, panel_bytes);
    x += E::kStepBytesX;
    w += kStepBytes;
  }
  if (args.half_step) Step<E, kRows, kPanels, true>(acc, x, x_row_bytes, w, panel_bytes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      E::Store(args.acc + r * kPanels * kPanelWidth + v * E::kLanes, acc[r][v]);
    }
  }
}

template <typename E, int kRows, int kPanels>
constexpr TileFn TileOrNull() {
  if constexpr (kRows <= E::kMaxRows &&
                kRows * kPanels * kPanelWidth / E::kLanes <= E::kMaxAccumulators) {
    return &Tile<E, kRows, kPanels>;
  } else {
    return nullptr;
  }
}

template <typename E, int kRows>
constexpr void FillRows(TileTable& table) {
  table.tile[kRows][0] = TileOrNull<E, kRows, 1>();
  table.tile[kRows][1] = TileOrNull<E, kRows, 2>();
  table.tile[kRows][2] = TileOrNull<E, kRows, 4>();
  if constexpr (kRows > 1) FillRows<E, kRows - 1>(table);
}

template <typename E>
constexpr TileTable MakeTileTable() {
  static_assert(E::kMaxRows <= kMaxTileRows);
  TileTable table{E::kMaxRows, {}};
  FillRows<E, kMaxTileRows>(table);
  return table;
}

QUIRE_INLINE void StoreVector(float* y, const float* value, int lanes) {
  for (int i = 0; i < lanes; ++i) y[i] = value[i];
}

QUIRE_INLINE void StoreVector(uint16_t* y, const uint16_t* value, int lanes) {
  for (int i = 0; i < lanes; ++i) y[i] = value[i];
}

template <typename L, typename Y>
QUIRE_INLINE void StoreLanes(Y* y, typename L::Vec value) {
  if constexpr (sizeof(Y) == sizeof(float)) {
    L::Store(y, value);
  } else {
    L::StoreBf16(y, value);
  }
}

template <typename L, typename Y>
void StoreTile(const StoreArgs& args) {
  for (int r = 0; r < args.rows; ++r) {
    const float* acc = args.acc + r * args.acc_row_floats;
    Y* y = static_cast<Y*>(args.y) + r * args.y_row_elements;
    int column = 0;
    for (; column + L::kLanes <= args.columns; column += L::kLanes) {
      typename L::Vec value = L::Load(acc + column);
      if (args.bias != nullptr) value = L::Add(value, L::Load(args.bias + column));
      StoreLanes<L>(y + column, value);
    }
    if (column == args.columns) continue;
    const int left = args.columns - column;
    float bias[L::kLanes] = {};
    if (args.bias != nullptr) StoreVector(bias, args.bias + column, left);
    typename L::Vec value = L::Load(acc + column);
    if (args.bias != nullptr) value = L::Add(value, L::Load(bias));
    Y rounded[L::kLanes];
    StoreLanes<L>(rounded, value);
    StoreVector(y + column, rounded, left);
  }
}

}  // namespace
}  // namespace quire::gemm_internal

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_IMPL_H_
