#include "tests/worker/device/exactness/same_bits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <sstream>

namespace quire {
namespace {

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

}  // namespace

bool SameBits(const std::vector<float>& expected, const float* row) {
  return std::memcmp(expected.data(), row, expected.size() * sizeof(float)) == 0;
}

bool SameBits(const TokenLogprobs& a, const TokenLogprobs& b) {
  return SameBits(a.logprob, b.logprob) &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
                    [](const TopLogprob& x, const TopLogprob& y) {
                      return x.token == y.token && SameBits(x.logprob, y.logprob);
                    });
}

std::string Difference(const std::vector<float>& expected, const float* row) {
  size_t count = 0;
  size_t first = 0;
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (SameBits(expected[i], row[i])) continue;
    if (count++ == 0) first = i;
    largest = std::max(largest, std::fabs(double{expected[i]} - double{row[i]}));
  }
  std::ostringstream text;
  text.precision(9);
  text << count << " of " << expected.size() << " differ, by " << largest << " at most";
  if (count > 0) {
    text << "; the first at " << first << ": " << row[first] << " instead of " << expected[first];
  }
  return text.str();
}

void ExpectSame(const std::vector<TestSequence>& expected, const std::vector<TestSequence>& got) {
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(got[i].output, expected[i].output) << "sequence " << i;
    ASSERT_TRUE(got[i].faults.empty());
    for (const auto& [position, logits] : got[i].logits) {
      const auto at = expected[i].logits.find(position);
      ASSERT_NE(at, expected[i].logits.end());
      ASSERT_TRUE(SameBits(at->second, logits.data()))
          << "sequence " << i << ", position " << position << ": "
          << Difference(at->second, logits.data());
    }
  }
}

}  // namespace quire
