#include "worker/device/cpu/gemm/packed_weights.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

PackedWeights Create(GemmDtype dtype, int64_t n, int64_t k) {
  absl::StatusOr<PackedWeights> weights = PackedWeights::Create(dtype, n, k);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return *std::move(weights);
}

TEST(PackedWeightsTest, LayoutIsAsDocumented) {
  constexpr int64_t kN = 40;
  constexpr int64_t kK = 5;
  std::vector<Bf16> rows(kN * kK);
  for (size_t i = 0; i < rows.size(); ++i) rows[i].bits = static_cast<uint16_t>(i + 1);
  PackedWeights weights = Create(GemmDtype::kBf16, kN, kK);
  weights.PackRows(0, kN, rows.data());
  ASSERT_EQ(weights.num_panels(), 2);
  ASSERT_EQ(weights.steps(), 3);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights.panel(0)) % 64, 0u);
  for (int64_t panel = 0; panel < 2; ++panel) {
    const auto* packed = reinterpret_cast<const Bf16*>(weights.panel(panel));
    for (int64_t step = 0; step < 3; ++step) {
      for (int64_t lane = 0; lane < 32; ++lane) {
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t row = panel * 32 + lane;
          const int64_t k = step * 2 + half;
          const bool exists = row < kN && k < kK;
          EXPECT_EQ(packed[(step * 32 + lane) * 2 + half].bits, exists ? row * kK + k + 1 : 0)
              << row << " " << k;
        }
      }
    }
  }
}

// Sources stacked along n, at borders inside panels, come back as they were.
template <typename T>
void ExpectStackedRowsComeBack(GemmDtype dtype, int64_t k) {
  const std::vector<int64_t> sources = {7, 64, 1, 30, 20};
  const int64_t n = std::accumulate(sources.begin(), sources.end(), int64_t{0});
  std::vector<T> rows(n * k);
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint32_t value = static_cast<uint32_t>(i * 7919 + 1);
    if constexpr (sizeof(T) == 2) {
      rows[i].bits = static_cast<uint16_t>(value);
    } else {
      rows[i] = static_cast<float>(value);
    }
  }
  PackedWeights weights = Create(dtype, n, k);
  int64_t begin = 0;
  for (int64_t num_rows : sources) {
    weights.PackRows(begin, num_rows, rows.data() + begin * k);
    begin += num_rows;
  }
  std::vector<T> row(k);
  for (int64_t i = 0; i < n; ++i) {
    weights.CopyRow(i, row.data());
    EXPECT_EQ(row, std::vector<T>(rows.begin() + i * k, rows.begin() + (i + 1) * k)) << i;
  }
}

TEST(PackedWeightsTest, StackedRowsComeBack) {
  for (int64_t k : {1, 2, 31, 32, 33, 100}) {
    ExpectStackedRowsComeBack<Bf16>(GemmDtype::kBf16, k);
    ExpectStackedRowsComeBack<float>(GemmDtype::kFp32, k);
  }
}

TEST(PackedWeightsTest, ImpossibleSizesAreRefused) {
  const int64_t huge = (int64_t{1} << 31) - 1;
  EXPECT_EQ(PackedWeights::Create(GemmDtype::kFp32, huge, huge).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(AlignedBufferTest, IsZeroedAndAligned) {
  for (size_t size_bytes : {size_t{1}, size_t{4096}, size_t{1} << 18, (size_t{5} << 20) + 3}) {
    absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(size_bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size_bytes(), size_bytes);
    const size_t alignment = size_bytes >= (size_t{1} << 18) ? size_t{2} << 20 : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % alignment, 0u);
    for (size_t i = 0; i < size_bytes; i += 61) EXPECT_EQ(buffer->data()[i], std::byte{0});
    buffer->data()[size_bytes - 1] = std::byte{1};
  }
  EXPECT_EQ(AlignedBuffer::Create(0)->data(), nullptr);
  EXPECT_EQ(AlignedBuffer::Create(SIZE_MAX - 5).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace quire
