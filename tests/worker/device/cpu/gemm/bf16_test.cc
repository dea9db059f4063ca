#include "worker/device/cpu/gemm/bf16.h"

#include <bit>
#include <cmath>
#include <cstdint>

#include "gtest/gtest.h"

namespace quire {
namespace {

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(Bf16Test, EveryBf16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    const Bf16 back = ToBf16(ToFloat(value));
    if (std::isnan(ToFloat(value))) {
      EXPECT_EQ(back.bits, bits | 0x40) << bits;
    } else {
      EXPECT_EQ(back, value) << bits;
    }
  }
}

TEST(Bf16Test, RoundsToNearestTiesToEven) {
  EXPECT_EQ(ToBf16(FromBits(0x3F808000)).bits, 0x3F80);  // a tie: down to even
  EXPECT_EQ(ToBf16(FromBits(0x3F808001)).bits, 0x3F81);
  EXPECT_EQ(ToBf16(FromBits(0x3F818000)).bits, 0x3F82);  // a tie: up to even
  EXPECT_EQ(ToBf16(FromBits(0x3F817FFF)).bits, 0x3F81);
  EXPECT_EQ(ToBf16(FromBits(0xBF818000)).bits, 0xBF82);
  EXPECT_EQ(ToBf16(FromBits(0x00008001)).bits, 0x0001);  // denormals round like the rest
  EXPECT_EQ(ToBf16(FromBits(0x7F7F8000)).bits, 0x7F80);  // beyond the largest: infinity
  EXPECT_EQ(ToBf16(FromBits(0x7F7F7FFF)).bits, 0x7F7F);
}

TEST(Bf16Test, NanStaysNan) {
  EXPECT_EQ(ToBf16(FromBits(0x7F800001)).bits, 0x7FC0);  // its payload is in the lower half alone
  EXPECT_EQ(ToBf16(FromBits(0xFFFFFFFF)).bits, 0xFFFF);  // rounding up would give +0
}

}  // namespace
}  // namespace quire
