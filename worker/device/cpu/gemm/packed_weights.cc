#include "worker/device/cpu/gemm/packed_weights.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace quire {
namespace {

template <typename T>
constexpr int64_t kElementsPerStep = std::is_same_v<T, Bf16> ? 2 : 1;

}  // namespace

absl::StatusOr<PackedWeights> PackedWeights::Create(GemmDtype dtype, int64_t n, int64_t k) {
  QUIRE_CHECK(n > 0 && k > 0);
  constexpr int64_t kMost = int64_t{1} << 31;
  if (n >= kMost || k >= kMost || n > std::numeric_limits<int64_t>::max() / 64 / k) {
    return absl::ResourceExhaustedError(
        absl::StrCat("weights of shape [", n, ", ", k, "] are too large"));
  }
  PackedWeights weights;
  weights.dtype_ = dtype;
  weights.n_ = n;
  weights.k_ = k;
  weights.steps_ = dtype == GemmDtype::kBf16 ? (k + 1) / 2 : k;
  absl::StatusOr<AlignedBuffer> buffer =
      AlignedBuffer::Create(weights.num_panels() * weights.steps_ * kStepBytes);
  if (!buffer.ok()) return buffer.status();
  weights.buffer_ = *std::move(buffer);
  return weights;
}

template <typename T>
T* PackedWeights::Element(int64_t row, int64_t k) const {
  constexpr int64_t kPerStep = kElementsPerStep<T>;
  std::byte* panel = buffer_.data() + row / kPanelWidth * steps_ * kStepBytes;
  return reinterpret_cast<T*>(panel + k / kPerStep * kStepBytes) + row % kPanelWidth * kPerStep +
         k % kPerStep;
}

template <typename T>
void PackedWeights::Pack(int64_t row_begin, int64_t num_rows, const T* rows) {
  QUIRE_CHECK(dtype_ == (std::is_same_v<T, Bf16> ? GemmDtype::kBf16 : GemmDtype::kFp32));
  QUIRE_CHECK(row_begin >= 0 && num_rows >= 0 && row_begin + num_rows <= n_);
  constexpr int64_t kPerStep = kElementsPerStep<T>;
  constexpr int64_t kStepStride = kStepBytes / static_cast<int64_t>(sizeof(T));
  // A transposition in blocks that stay in the first-level cache: one panel's rows by one cache
  // line.
  constexpr int64_t kBlock = 64 / sizeof(T);
  for (int64_t row = 0; row < num_rows;) {
    const int64_t row_end = std::min(num_rows, row + kPanelWidth - (row_begin + row) % kPanelWidth);
    for (int64_t k = 0; k < k_; k += kBlock) {
      const int64_t block = std::min(kBlock, k_ - k);
      for (int64_t r = row; r < row_end; ++r) {
        const T* from = rows + r * k_ + k;
        T* to = Element<T>(row_begin + r, k);
        int64_t i = 0;
        for (; i + kPerStep <= block; i += kPerStep, to += kStepStride) {
          for (int64_t j = 0; j < kPerStep; ++j) to[j] = from[i + j];
        }
        if (i < block) *to = from[i];
      }
    }
    row = row_end;
  }
}

void PackedWeights::PackRows(int64_t row_begin, int64_t num_rows, const Bf16* rows) {
  Pack(row_begin, num_rows, rows);
}

void PackedWeights::PackRows(int64_t row_begin, int64_t num_rows, const float* rows) {
  Pack(row_begin, num_rows, rows);
}

void PackedWeights::CopyRow(int64_t row, Bf16* out) const {
  QUIRE_CHECK(dtype_ == GemmDtype::kBf16 && row >= 0 && row < n_);
  for (int64_t k = 0; k < k_; ++k) out[k] = *Element<Bf16>(row, k);
}

void PackedWeights::CopyRow(int64_t row, float* out) const {
  QUIRE_CHECK(dtype_ == GemmDtype::kFp32 && row >= 0 && row < n_);
  for (int64_t k = 0; k < k_; ++k) out[k] = *Element<float>(row, k);
}

}  // namespace quire
