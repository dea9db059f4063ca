#include "worker/model/cast.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace quire {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(DType, NamesRoundTrip) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
  EXPECT_EQ(DTypeFromName("float64"), std::nullopt);
}

TEST(Cast, EverySixteenBitPatternSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float bf16 = FloatFromBf16(static_cast<uint16_t>(bits));
    const uint16_t bf16_back = Bf16FromFloat(bf16);
    EXPECT_TRUE(std::isnan(bf16) ? std::isnan(FloatFromBf16(bf16_back)) : bf16_back == bits)
        << bits;
    const float f16 = FloatFromF16(static_cast<uint16_t>(bits));
    const uint16_t f16_back = F16FromFloat(f16);
    EXPECT_TRUE(std::isnan(f16) ? std::isnan(FloatFromF16(f16_back)) : f16_back == bits) << bits;
  }
}

// A second definition: of the two neighbours the nearer one, and of two equally near ones the even
// one.
TEST(Cast, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = FloatFromF16(static_cast<uint16_t>(bits));
    const float high = FloatFromF16(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact in fp32
    EXPECT_EQ(F16FromFloat(middle), bits + (bits & 1)) << middle;
    EXPECT_EQ(F16FromFloat(std::nextafter(middle, 0.0f)), bits) << middle;
    EXPECT_EQ(F16FromFloat(-std::nextafter(middle, kInf)), 0x8000 + bits + 1) << middle;
  }
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const uint32_t middle = (bits << 16) + 0x8000;
    EXPECT_EQ(Bf16FromFloat(std::bit_cast<float>(middle)), bits + (bits & 1));
    EXPECT_EQ(Bf16FromFloat(std::bit_cast<float>(middle - 1)), bits);
    EXPECT_EQ(Bf16FromFloat(std::bit_cast<float>(middle + 1)), bits + 1);
  }
}

TEST(Cast, CountsAndClampsWhatDoesNotFit) {
  const std::vector<float> values = {1.0f,  65504.0f, 65519.0f, 65520.0f, -1e9f,
                                     1e-9f, -1e-9f,   0.0f,     -kInf,    NAN};
  std::vector<uint16_t> cast(values.size());
  const CastCounts counts =
      CastElements(values.data(), DType::kF32, cast.data(), DType::kF16, values.size());
  EXPECT_EQ(counts.overflowed, 2u);
  EXPECT_EQ(counts.flushed, 2u);
  EXPECT_EQ(FloatFromF16(cast[2]), 65504.0f);
  EXPECT_EQ(FloatFromF16(cast[3]), LargestFinite(DType::kF16));
  EXPECT_EQ(FloatFromF16(cast[4]), -LargestFinite(DType::kF16));
  EXPECT_EQ(FloatFromF16(cast[8]), -kInf);
  EXPECT_TRUE(std::isnan(FloatFromF16(cast[9])));

  const std::vector<float> huge = {3.4e38f, -3.3895314e38f};
  EXPECT_EQ(CastElements(huge.data(), DType::kF32, cast.data(), DType::kBF16, 2).overflowed, 1u);
  EXPECT_EQ(FloatFromBf16(cast[0]), LargestFinite(DType::kBF16));
}

TEST(Cast, ReadsUnalignedInput) {
  std::vector<char> bytes(1 + 3 * sizeof(float));
  const float values[] = {1.5f, -2.0f, 3.25f};
  std::memcpy(bytes.data() + 1, values, sizeof(values));
  float out[3];
  CastElements(bytes.data() + 1, DType::kF32, out, DType::kF32, 3);
  EXPECT_EQ(out[2], 3.25f);
  uint16_t narrow[3];
  CastElements(bytes.data() + 1, DType::kF32, narrow, DType::kBF16, 3);
  EXPECT_EQ(FloatFromBf16(narrow[1]), -2.0f);
}

TEST(Cast, RangeOfATensor) {
  const std::vector<float> values = {-3.0f, 1e-30f, 7e4f, 0.0f, NAN, kInf};
  TensorRange range;
  AccumulateRange(values.data(), DType::kF32, 3, &range);
  AccumulateRange(values.data() + 3, DType::kF32, 3, &range);  // in parts as in one
  EXPECT_EQ(range.min, -3.0f);
  EXPECT_EQ(range.max, 7e4f);
  EXPECT_EQ(range.smallest_nonzero_magnitude, 1e-30f);
  EXPECT_EQ(range.num_zeros, 1u);
  EXPECT_EQ(range.num_not_finite, 2u);
  EXPECT_EQ(range.to_f16.overflowed, 1u);
  EXPECT_EQ(range.to_f16.flushed, 1u);
  EXPECT_EQ(range.to_bf16.overflowed, 0u);
  EXPECT_EQ(range.to_bf16.flushed, 0u);
}

}  // namespace
}  // namespace quire
