#include "clients/cli/bench_requests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace quire {
namespace {

constexpr LengthDistribution kPrompts = {.mean = 202, .sigma = 1, .max = 1024};
constexpr LengthDistribution kOutputs = {.mean = 179, .sigma = 1, .max = 1024};

// (prompt, new tokens) of the first requests.
std::vector<std::pair<int, uint32_t>> Trace(LengthDistribution input, LengthDistribution output,
                                            uint64_t seed, size_t count) {
  const BenchRequests requests({}, input, output, 50, seed);
  std::vector<std::pair<int, uint32_t>> trace;
  for (size_t i = 0; i < count; ++i) {
    const v1::GenerateRequest request = requests.Make(i);
    trace.emplace_back(request.token_ids().ids_size(), request.max_new_tokens());
  }
  return trace;
}

TEST(BenchRequests, ASeedGivesTheSameTraceEverywhere) {
  EXPECT_EQ(Trace(kPrompts, kOutputs, 7, 50), Trace(kPrompts, kOutputs, 7, 50));
  EXPECT_NE(Trace(kPrompts, kOutputs, 7, 50), Trace(kPrompts, kOutputs, 8, 50));
  // Written down once: other machines and libraries must agree.
  EXPECT_EQ(Trace(kPrompts, kOutputs, 0, 3),
            (std::vector<std::pair<int, uint32_t>>{{39, 149}, {458, 48}, {228, 63}}));
}

TEST(BenchRequests, WithoutSpreadEveryLengthIsTheMean) {
  for (const auto& [prompt, output] : Trace({.mean = 8}, {.mean = 3}, 1, 20)) {
    EXPECT_EQ(prompt, 8);
    EXPECT_EQ(output, 3);
  }
}

TEST(BenchRequests, LogNormalLengthsKeepTheirMeanAndTheirMaximum) {
  constexpr size_t kCount = 4000;
  double prompts = 0, outputs = 0;
  std::vector<int> lengths;
  for (const auto& [prompt, output] : Trace(kPrompts, kOutputs, 1, kCount)) {
    EXPECT_GE(std::min<int>(prompt, output), 1);
    EXPECT_LE(std::max<int>(prompt, output), 1024);
    prompts += prompt;
    outputs += output;
    lengths.push_back(prompt);
  }
  // The cut takes some percent; the mean's standard error is about 2%.
  EXPECT_NEAR(prompts / kCount, 193, 12);
  EXPECT_NEAR(outputs / kCount, 173, 11);
  std::nth_element(lengths.begin(), lengths.begin() + kCount / 2, lengths.end());
  EXPECT_NEAR(lengths[kCount / 2], 202 * 0.6065, 8);  // exp(-1/2) of the mean
}

TEST(LengthDistribution, IsOneTokenAtLeast) {
  EXPECT_EQ((LengthDistribution{.mean = 2, .sigma = 3, .max = 10}).At(-4), 1);
  EXPECT_EQ((LengthDistribution{.mean = 2, .sigma = 3, .max = 10}).At(4), 10);
  EXPECT_EQ((LengthDistribution{.mean = 100, .sigma = 2}).At(1), 100);  // exp(2 - 2)
}

}  // namespace
}  // namespace quire
