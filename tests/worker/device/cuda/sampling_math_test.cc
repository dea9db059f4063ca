#include "worker/device/cuda/kernels/sampling_math.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/device/cuda/kernels/philox.cuh"

// What the sampling kernels compute as the host does, looked at on the host.
namespace quire::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(SamplingMath, PhiloxGivesItsKnownAnswers) {
  // Random123's kat_vectors for philox4x32-10.
  const uint4 zeros = Philox(make_uint4(0, 0, 0, 0), 0);
  EXPECT_EQ(zeros.x, 0x6627e8d5u);
  EXPECT_EQ(zeros.y, 0xe169c58du);
  EXPECT_EQ(zeros.z, 0xbc57ac4cu);
  EXPECT_EQ(zeros.w, 0x9b00dbd8u);
  const uint4 pi =
      Philox(make_uint4(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), 0x299f31d0a4093822);
  EXPECT_EQ(pi.x, 0xd16cfe09u);
  EXPECT_EQ(pi.y, 0x94fdccebu);
  EXPECT_EQ(pi.z, 0x5001e420u);
  EXPECT_EQ(pi.w, 0x24126ea1u);
}

TEST(SamplingMath, ExpAndLogAreAccurate) {
  for (float x = 0; x > -87.3f; x -= 0.00137f) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(ExpOfNegative(x), exact, exact * 1.5e-7) << x;
  }
  EXPECT_EQ(ExpOfNegative(0), 1);
  EXPECT_EQ(ExpOfNegative(-88), 0);
  EXPECT_EQ(ExpOfNegative(-kInfinity), 0);
  for (float x = 1e-30f; x < 1e30f; x *= 1.00091f) {
    const double exact = std::log(static_cast<double>(x));
    ASSERT_NEAR(Log(x), exact, 2e-7 * std::max(1.0, std::abs(exact))) << x;
  }
}

TEST(SamplingMath, NoiseIsAccurateAndBounded) {
  for (uint64_t k = 0; k < 1u << 24; k += k % 4096 < 16 || k > (1u << 24) - 5000 ? 1 : 997) {
    const uint32_t word = static_cast<uint32_t>(k << 8 | 0x5a);
    const double u = (static_cast<double>(k) + 0.5) * 0x1p-24;
    const double exact = -std::log(-std::log(u));
    ASSERT_NEAR(Gumbel(word), exact, 4e-7 * std::max(1.0, std::abs(exact))) << k;
    // The bound is above what any rounding may add, once the kernel's percent is on it.
    ASSERT_LE(Gumbel(word), -std::log(GumbelBound(word) / 1.005)) << k;
  }
}

}  // namespace
}  // namespace quire::cuda
