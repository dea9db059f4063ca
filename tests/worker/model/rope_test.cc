#include "worker/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "worker/model/sha256.h"

namespace quire {
namespace {

constexpr RopeConfig kLlama3 = {.theta = 500000.0,
                                .scaling = RopeScaling::kLlama3,
                                .factor = 8.0,
                                .low_freq_factor = 1.0,
                                .high_freq_factor = 4.0,
                                .original_max_position_embeddings = 8192};

// The formulas of the paper and of Llama 3.1 in double with libm: a second way to the same
// frequencies.
double Reference(const RopeConfig& rope, uint32_t head_dim, uint32_t i) {
  const double frequency = std::pow(rope.theta, -2.0 * i / head_dim);
  if (rope.scaling == RopeScaling::kLinear) return frequency / rope.factor;
  if (rope.scaling == RopeScaling::kNone) return frequency;
  const double wavelength = 2 * M_PI / frequency;
  const double context = rope.original_max_position_embeddings;
  if (wavelength > context / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < context / rope.high_freq_factor) return frequency;
  const double smooth = (context / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

TEST(Rope, FrequenciesFollowTheFormulas) {
  const RopeConfig plain = {.theta = 10000.0};
  const RopeConfig large = {.theta = 1e6};
  const RopeConfig linear = {.theta = 10000.0, .scaling = RopeScaling::kLinear, .factor = 2.5};
  for (const RopeConfig& rope : {plain, large, linear, kLlama3}) {
    for (uint32_t head_dim : {16u, 64u, 80u, 128u, 256u}) {
      const std::vector<float> frequencies = RopeInverseFrequencies(rope, head_dim);
      ASSERT_EQ(frequencies.size(), head_dim / 2);
      for (uint32_t i = 0; i < frequencies.size(); ++i) {
        const double want = Reference(rope, head_dim, i);
        // The exponent is rounded to fp32 first: an error of 3e-8 times log theta.
        EXPECT_NEAR(frequencies[i] / want, 1.0, 1.5e-6) << i << " of " << head_dim;
      }
    }
  }
}

TEST(Rope, CosAndSinOfTheFp32Angle) {
  const RopeConfig rope = {.theta = 10000.0};
  const std::vector<float> frequencies = RopeInverseFrequencies(rope, 64);
  const RopeTables tables = ComputeRopeTables(rope, 64, 20000);
  ASSERT_EQ(tables.half, 32u);
  ASSERT_EQ(tables.cos.size(), 20000u * 32u);
  for (uint32_t position = 0; position < 20000; position += 7) {
    for (uint32_t i = 0; i < 32; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      // To the last bit, but for a libm that is not correctly rounded in double.
      EXPECT_FLOAT_EQ(tables.cos[position * 32 + i],
                      static_cast<float>(std::cos(static_cast<double>(angle))));
      EXPECT_FLOAT_EQ(tables.sin[position * 32 + i],
                      static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  }
}

// The tables must not differ between hosts and compilers: their bits are fixed here.
TEST(Rope, SameBitsEverywhere) {
  const RopeTables tables = ComputeRopeTables(kLlama3, 128, 4096);
  const size_t bytes = tables.cos.size() * sizeof(float);
  EXPECT_EQ(Sha256Hex(tables.cos.data(), bytes),
            "7d20ef7710298f702fc3d2928920655dd2825f82d9b2f20ca3cf6eea2e891b1f");
  EXPECT_EQ(Sha256Hex(tables.sin.data(), bytes),
            "9b07a593f3834c6aa1c5e154801565e389b7b6085f6bc7ce3bf23e091766ab9a");
}

}  // namespace
}  // namespace quire
