#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_PACKED_WEIGHTS_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/device/cpu/gemm/aligned_buffer.h"
#include "worker/device/cpu/gemm/bf16.h"

namespace quire {

enum class GemmDtype { kBf16, kFp32 };

// The weight matrix of a linear layer, [n, k] (row j holds the weights of output j), in the one
// layout that every instruction-set path and every batch size reads:
//
//   [panel = ceil(n / 32)][step][lane = 32][1 (fp32) or 2 (bf16)]
//
// Output j is lane j % 32 of panel j / 32. A step is one k (fp32) or the pair k = 2s, 2s + 1 (bf16,
// as vdpbf16ps takes it), so a step of a panel is 128 bytes in both dtypes and a panel is read
// front to back. Lanes beyond n and, for odd k, the missing half of the last pair are zero.
//
// Move-only. Const methods may be called from any thread; PackRows from several threads at once if
// their rows differ.
class PackedWeights {
 public:
  static constexpr int kPanelWidth = 32;
  static constexpr int kStepBytes = 128;

  PackedWeights() = default;  // n() == k() == 0

  // All weights zero. RESOURCE_EXHAUSTED when there is not enough memory. REQUIRES: n > 0, k > 0.
  static absl::StatusOr<PackedWeights> Create(GemmDtype dtype, int64_t n, int64_t k);

  // Sets rows [row_begin, row_begin + num_rows) from `rows`, [num_rows, k] row-major. Layers that
  // read the same input (Q, K and V; gate and up) are stacked along n by one call each. REQUIRES:
  // dtype() is that of `rows`; the range lies within [0, n).
  void PackRows(int64_t row_begin, int64_t num_rows, const Bf16* rows);
  void PackRows(int64_t row_begin, int64_t num_rows, const float* rows);

  // Copies row `row` back to `out`, [k]: for an embedding table that is tied to the output layer.
  // REQUIRES: dtype() is that of `out`, 0 <= row < n.
  void CopyRow(int64_t row, Bf16* out) const;
  void CopyRow(int64_t row, float* out) const;

  GemmDtype dtype() const { return dtype_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t num_panels() const { return (n_ + kPanelWidth - 1) / kPanelWidth; }
  int64_t steps() const { return steps_; }
  size_t size_bytes() const { return buffer_.size_bytes(); }
  const std::byte* panel(int64_t index) const {
    return buffer_.data() + index * steps_ * kStepBytes;
  }

 private:
  template <typename T>
  T* Element(int64_t row, int64_t k) const;
  template <typename T>
  void Pack(int64_t row_begin, int64_t num_rows, const T* rows);

  GemmDtype dtype_ = GemmDtype::kFp32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t steps_ = 0;
  AlignedBuffer buffer_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_PACKED_WEIGHTS_H_
