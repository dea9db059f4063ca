#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <iostream>
#include <limits>
#include <numeric>

#include "tests/worker/device/cpu/reference_sampler.h"
#include "tests/worker/device/cuda/sampling_scene.h"
#include "worker/device/cuda/kernels/sampling.h"

namespace quire::cuda {
namespace {

constexpr SamplingNeeds kDraws = {.draws = true};

class SamplingDrawsTest : public GpuTest {};

TEST_F(SamplingDrawsTest, ForbiddenTokensAreNeverDrawn) {
  SamplingParams params;
  params.temperature = 100;  // all but uniform
  params.min_new_tokens = 1;
  params.eos_token_ids = {0, 2, 6};
  std::vector<SlotSpec> slots = SlotsOf(400, params);
  for (uint32_t s = 0; s < slots.size(); ++s) {
    slots[s].params.seed = s;
    if (s % 2 == 1) slots[s].params.top_k = 5;  // as many as are left, and one
    if (s % 3 == 1) slots[s].params.top_p = 0.999f;
  }
  const std::vector<float> logits = RandomLogits(7, 1.0f, 1);
  SamplingScene scene(7, slots, 400);
  std::vector<SamplingScene::Row> rows;
  for (uint32_t s = 0; s < slots.size(); ++s) rows.push_back(scene.NextOf(s, logits));
  std::vector<int> times(7);
  for (const RowResult& result : scene.Run(rows, kDraws).results) ++times.at(result.token);
  for (const uint32_t token : {0u, 2u, 6u}) EXPECT_EQ(times[token], 0) << token;
  for (const uint32_t token : {1u, 3u, 4u, 5u}) EXPECT_GT(times[token], 50) << token;
  // With nothing left, the row still ends.
  for (uint32_t s = 0; s < slots.size(); ++s) {
    scene.slot(s).params.eos_token_ids = {0, 1, 2, 3, 4, 5, 6};
  }
  scene.WriteParams();
  for (const RowResult& result : scene.Run(rows, kDraws).results) EXPECT_LT(result.token, 7u);
}

// A reference draw in double precision, as ReferenceSample makes it from the same probabilities.
struct ReferenceDraw {
  const std::vector<double>& probabilities;
  const SamplingParams& params;
  uint32_t position;

  double Score(TokenId token) const {
    return std::log(probabilities[token]) +
           ReferenceNoise(params.seed, position, params.choice, token);
  }
  TokenId Best(const std::vector<TokenId>& likeliest_first) const {
    TokenId best = likeliest_first[0];
    double score = Score(best);
    for (const TokenId token : likeliest_first) {
      if (probabilities[token] == 0 || std::log(probabilities[token]) + 17.4 < score) break;
      const double other = Score(token);
      if (other > score || (other == score && token < best)) {
        best = token;
        score = other;
      }
    }
    return best;
  }
};

TEST_F(SamplingDrawsTest, DrawsAgreeWithTheDefinitionInDoubles) {
  size_t num_draws = 0;
  size_t num_by_rounding = 0;
  size_t num_by_border = 0;
  for (const uint32_t vocabulary : Vocabularies({8192, 32000, 50257, 128256, 151936})) {
    const uint32_t num_seeds = 10;
    for (const float deviation : {0.01f, 1.0f, 6.0f}) {
      const std::vector<float> logits = RandomLogits(vocabulary, deviation, vocabulary);
      std::vector<SlotSpec> slots;
      for (const SamplingParams& setting : SamplingSettings()) {
        for (uint32_t i = 0; i < num_seeds; ++i) {
          SlotSpec& slot = slots.emplace_back();
          slot.params = setting;
          slot.params.seed = uint64_t{i} << 30 | i | vocabulary;
          slot.params.choice = i % 3;
          slot.output = {4, 4, 9};
        }
      }
      SamplingScene scene(vocabulary, slots, static_cast<uint32_t>(slots.size()));
      std::vector<SamplingScene::Row> rows;
      for (uint32_t s = 0; s < slots.size(); ++s) rows.push_back(scene.NextOf(s, logits));
      const SamplingScene::Outcome outcome = scene.Run(rows, kDraws);
      for (uint32_t s = 0; s < slots.size(); s += num_seeds) {
        const std::vector<double> probabilities =
            ReferenceProbabilities(logits, slots[s].params, slots[s].prompt, slots[s].output);
        std::vector<TokenId> order(vocabulary);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](TokenId a, TokenId b) { return probabilities[a] > probabilities[b]; });
        for (uint32_t i = s; i < s + num_seeds; ++i) {
          const ReferenceDraw draw{probabilities, slots[i].params, 7};
          const TokenId expected = draw.Best(order);
          const TokenId token = outcome.results[i].token;
          ++num_draws;
          if (token == expected) continue;
          ASSERT_LT(token, vocabulary);
          const double margin = probabilities[token] > 0 ? draw.Score(expected) - draw.Score(token)
                                                         : std::numeric_limits<double>::infinity();
          (margin < 2e-5 ? num_by_rounding : num_by_border) += 1;
          std::cout << "  vocabulary " << vocabulary << ", deviation " << deviation << ", setting "
                    << s / num_seeds << ", seed " << i - s << ": token " << token << " instead of "
                    << expected << ", which leads by " << margin << std::endl;
        }
      }
    }
  }
  std::cout << "  " << num_draws << " draws: " << num_by_rounding
            << " decided by rounding of the scores, " << num_by_border
            << " by rounding at the border of top_k or top_p" << std::endl;
  EXPECT_LE(num_by_rounding, num_draws / 500);
  EXPECT_LE(num_by_border, num_draws / 500);
}

// Pearson's statistic against the exact probabilities.
TEST_F(SamplingDrawsTest, DrawsFollowTheExactDistribution) {
  constexpr uint32_t kVocabulary = 30;
  constexpr uint32_t kSlots = 2000;
  const uint32_t kLaunches = IsSanitized() ? 1 : 10;
  const std::vector<float> logits = RandomLogits(kVocabulary, 1.2f, 3);
  for (size_t setting = 0; setting < 9; setting += IsSanitized() ? 4 : 1) {
    SCOPED_TRACE(setting);
    std::vector<SlotSpec> slots = SlotsOf(kSlots, SamplingSettings()[setting]);
    for (SlotSpec& slot : slots) slot.output = {4, 4, 9};
    const std::vector<double> expected =
        ReferenceProbabilities(logits, slots[0].params, slots[0].prompt, slots[0].output);
    SamplingScene scene(kVocabulary, slots, kSlots);
    std::vector<SamplingScene::Row> rows;
    for (uint32_t s = 0; s < kSlots; ++s) rows.push_back(scene.NextOf(s, logits));
    std::vector<int> times(kVocabulary);
    for (uint32_t launch = 0; launch < kLaunches; ++launch) {
      for (uint32_t s = 0; s < kSlots; ++s) {
        scene.slot(s).params.seed = (launch * kSlots + s) * 0x9E3779B97F4A7C15;
        if (launch > 0 && slots[s].params.presence_penalty != 0) scene.Refill(s);
        if (launch > 0 && slots[s].params.repetition_penalty != 1) scene.Refill(s);
      }
      scene.WriteParams();
      for (const RowResult& result : scene.Run(rows, kDraws).results) ++times.at(result.token);
    }
    double statistic = 0;
    double freedom = -1;
    for (uint32_t token = 0; token < kVocabulary; ++token) {
      if (expected[token] == 0) {
        EXPECT_EQ(times[token], 0) << token;
        continue;
      }
      const double mean = expected[token] * kSlots * kLaunches;
      statistic += (times[token] - mean) * (times[token] - mean) / mean;
      freedom += 1;
    }
    // Mean + 5 standard deviations of chi-square; the draws are fixed, so this never flickers.
    EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom));
  }
}

TEST_F(SamplingDrawsTest, TopKKeepsTiesAndTopPTakesTheLowerIdsOfThem) {
  for (const uint32_t vocabulary : Vocabularies({200, 20000})) {
    const std::vector<float> logits(vocabulary, 0.5f);
    constexpr uint32_t kSlots = 1000;
    std::vector<SlotSpec> slots = SlotsOf(2 * kSlots, {});
    for (uint32_t s = 0; s < slots.size(); ++s) {
      slots[s].params.seed = s;
      if (s < kSlots) {
        slots[s].params.top_k = 5;
      } else {
        slots[s].params.top_p = 0.1f;
      }
    }
    SamplingScene scene(vocabulary, slots, 2 * kSlots);
    std::vector<SamplingScene::Row> rows;
    for (uint32_t s = 0; s < slots.size(); ++s) rows.push_back(scene.NextOf(s, logits));
    const SamplingScene::Outcome outcome = scene.Run(rows, kDraws);
    std::vector<bool> top_k(vocabulary), top_p(vocabulary);
    for (uint32_t s = 0; s < kSlots; ++s) top_k[outcome.results[s].token] = true;
    for (uint32_t s = kSlots; s < 2 * kSlots; ++s) top_p[outcome.results[s].token] = true;
    EXPECT_GT(std::count(top_k.begin(), top_k.end(), true), vocabulary == 200 ? 190 : 900);
    // 0.1f is a little more than a tenth.
    EXPECT_EQ(std::count(top_p.begin() + vocabulary / 10 + 1, top_p.end(), true), 0);
    EXPECT_GT(std::count(top_p.begin(), top_p.end(), true), vocabulary == 200 ? 19 : 700);
  }
}

TEST_F(SamplingDrawsTest, ExtremeParametersStillChooseAToken) {
  for (const uint32_t vocabulary : Vocabularies({7, 500, 128256})) {
    std::vector<SlotSpec> slots(12);
    for (uint32_t i = 0; i < 3; ++i) {
      slots[i].params.temperature = std::vector<float>{1e-45f, 1e-38f, 1e-6f}[i];
      slots[i].params.top_p = 0.5f;
    }
    slots[3].params.top_p = FLT_MIN;
    slots[4].params.min_p = 1;
    slots[5].params.top_k = 1;
    slots[6].params.top_k = 1;
    slots[6].params.top_p = 0.5f;
    slots[7].params.temperature = 1e-6f;
    slots[7].params.top_k = 3;
    const uint32_t num_certain = 8;  // draw the likeliest for sure
    slots[8].params.repetition_penalty = 1e-38f;
    slots[9].params.temperature = 1e30f;
    slots[9].params.top_p = 0.5f;
    slots[10].params.top_k = vocabulary - 1;
    slots[10].params.top_p = 1 - FLT_EPSILON / 2;
    slots[11].params.top_k = vocabulary;
    SamplingScene scene(vocabulary, slots, 12);
    // Ordinary ones, all equal but one, all but equal, and as large as can be.
    std::vector<std::vector<float>> cases(5, RandomLogits(vocabulary, 3.0f, 9));
    std::fill(cases[1].begin(), cases[1].end(), 1.0f);
    cases[1][5] = 2;
    for (float& logit : cases[2]) logit *= 1e-38f;
    for (float& logit : cases[3]) logit *= 1e37f;
    for (float& logit : cases[4]) logit = logit < 0 ? -FLT_MAX : logit;
    for (size_t c = 0; c < cases.size(); ++c) {
      std::vector<SamplingScene::Row> rows;
      for (uint32_t s = 0; s < slots.size(); ++s) rows.push_back(scene.NextOf(s, cases[c]));
      const SamplingScene::Outcome outcome = scene.Run(rows, kDraws);
      for (uint32_t s = 0; s < slots.size(); ++s) {
        SCOPED_TRACE(testing::Message() << vocabulary << ", case " << c << ", slot " << s);
        EXPECT_EQ(outcome.results[s].fault, 0u);
        EXPECT_LT(outcome.results[s].token, vocabulary);
        // The differences of case 2 are too small for e^x to see.
        if (s < num_certain && (c != 2 || s == 0 || s == 3 || s == 5 || s == 6)) {
          EXPECT_EQ(outcome.results[s].token, ArgMax(cases[c]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::cuda
