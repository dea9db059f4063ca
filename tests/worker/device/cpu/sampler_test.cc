#include "worker/device/cpu/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/worker/device/cpu/reference_sampler.h"
#include "tests/worker/device/filter_settings.h"
#include "worker/device/cpu/gemm/isa.h"
#include "worker/device/cpu/gemm/thread_pool.h"

namespace quire {
namespace {

std::vector<float> RandomLogits(uint32_t n, float deviation, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

struct Draw {
  std::vector<TokenId> prompt = {1, 2, 3, 2};
  std::vector<TokenId> output;

  Sampler::Choice From(Sampler& sampler, const std::vector<float>& logits,
                       const SamplingParams& params) const {
    TokenCounts counts;
    for (const TokenId token : prompt) counts.AddPrompt(token);
    for (const TokenId token : output) counts.AddOutput(token);
    Sampler::Choice choice;
    ThreadPool pool(1);  // denormals are flushed, as in a step
    pool.Run([&](ThreadContext&) {
      choice = sampler.Sample({.logits = logits.data(),
                               .position = static_cast<uint32_t>(prompt.size() + output.size()),
                               .num_output_tokens = static_cast<uint32_t>(output.size()),
                               .counts = &counts},
                              params);
    });
    return choice;
  }
};

const SamplingKernels& Fastest() { return KernelsFor(SupportedIsas().back()).sampling; }

// Every filter alone, all of them together, and penalties without randomness.
std::vector<SamplingParams> Settings() {
  std::vector<SamplingParams> settings = FilterSettings();
  settings.resize(10);
  settings[9].temperature = 0;
  settings[9].repetition_penalty = 1.9f;
  settings[9].presence_penalty = 1.5f;
  return settings;
}

// Pearson's statistic against the exact probabilities, over 20,000 draws at different positions.
TEST(SamplerTest, DrawsFollowTheExactDistribution) {
  constexpr uint32_t kVocabulary = 30;
  constexpr int kDraws = 20000;
  Sampler sampler(Fastest(), kVocabulary);
  const std::vector<float> logits = RandomLogits(kVocabulary, 1.2f, 3);
  for (size_t setting = 0; setting < 9; ++setting) {
    SCOPED_TRACE(setting);
    SamplingParams params = Settings()[setting];
    const Draw draw = {.output = {4, 4, 9}};
    const std::vector<double> expected =
        ReferenceProbabilities(logits, params, draw.prompt, draw.output);
    std::vector<int> counts(kVocabulary);
    for (int i = 0; i < kDraws; ++i) {
      params.seed = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15;
      ++counts[draw.From(sampler, logits, params).token];
    }
    double statistic = 0;
    double freedom = -1;
    for (uint32_t token = 0; token < kVocabulary; ++token) {
      if (expected[token] == 0) {
        ASSERT_EQ(counts[token], 0) << token;
        continue;
      }
      const double mean = expected[token] * kDraws;
      statistic += (counts[token] - mean) * (counts[token] - mean) / mean;
      freedom += 1;
    }
    // Mean + 5 standard deviations of chi-square; the draws are fixed, so this never flickers.
    EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom));
  }
}

TEST(SamplerTest, TheLeastRepetitionPenaltyIsNotZero) {
  Sampler sampler(Fastest(), 4);
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = std::numeric_limits<float>::denorm_min();
  // Token 1 is in the prompt; its logit stays 0, whatever divides it.
  EXPECT_EQ(Draw({.prompt = {1}}).From(sampler, {-1, 0, -1, -1}, params).token, 1u);
}

// Positions and choices are as good a source of independent draws as seeds are.
TEST(SamplerTest, PositionsAndChoicesAreIndependentDraws) {
  const std::vector<float> logits(8, 0.0f);
  Sampler sampler(Fastest(), 8);
  std::vector<int> counts(64);
  for (uint32_t position = 0; position < 12800; ++position) {
    Draw draw;
    draw.prompt.assign(1 + position % 50, 1);
    SamplingParams params;
    params.seed = position / 50;
    const TokenId first = draw.From(sampler, logits, params).token;
    params.choice = 1;
    ++counts[first * 8 + draw.From(sampler, logits, params).token];
  }
  double statistic = 0;
  for (const int count : counts) statistic += (count - 200.0) * (count - 200.0) / 200.0;
  EXPECT_LT(statistic, 63 + 5 * std::sqrt(2 * 63.0));
}

// Token for token what the definition gives, at sizes that need the selection's halving.
TEST(SamplerTest, AgreesWithTheDefinition) {
  for (const uint32_t vocabulary : {30u, 1000u, 8192u, 50001u}) {
    Sampler sampler(Fastest(), vocabulary);
    for (const float deviation : {0.01f, 1.0f, 6.0f}) {
      const std::vector<float> logits = RandomLogits(vocabulary, deviation, vocabulary);
      for (size_t setting = 0; setting < Settings().size(); ++setting) {
        SCOPED_TRACE(testing::Message() << "vocabulary " << vocabulary << ", deviation "
                                        << deviation << ", setting " << setting);
        SamplingParams params = Settings()[setting];
        Draw draw;
        for (uint64_t i = 0; i < 6; ++i) {
          params.seed = i << 30 | setting;
          params.choice = static_cast<uint32_t>(i % 3);
          const TokenId token = draw.From(sampler, logits, params).token;
          ASSERT_EQ(token, ReferenceSample(logits, params, draw.prompt, draw.output));
          draw.output.push_back(token);
        }
      }
    }
  }
}

TEST(SamplerTest, EveryInstructionSetDrawsTheSameTokens) {
  constexpr uint32_t kVocabulary = 3001;
  const std::vector<float> logits = RandomLogits(kVocabulary, 2.0f, 5);
  Sampler portable(KernelsFor(Isa::kPortable).sampling, kVocabulary);
  for (const Isa isa : SupportedIsas()) {
    Sampler sampler(KernelsFor(isa).sampling, kVocabulary);
    for (SamplingParams params : Settings()) {
      params.logprobs = 20;
      for (params.seed = 0; params.seed < 30; ++params.seed) {
        const Sampler::Choice expected = Draw{}.From(portable, logits, params);
        const Sampler::Choice got = Draw{}.From(sampler, logits, params);
        ASSERT_EQ(got.token, expected.token) << IsaName(isa);
        ASSERT_EQ(got.logprobs.logprob, expected.logprobs.logprob);
        for (size_t i = 0; i < 20; ++i) {
          ASSERT_EQ(got.logprobs.top[i].token, expected.logprobs.top[i].token);
          ASSERT_EQ(got.logprobs.top[i].logprob, expected.logprobs.top[i].logprob);
        }
      }
    }
  }
}

// The known answer of Philox4x32-10 for counter and key zero (Random123's kat_vectors), by way of
// the reference: the first words are 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
TEST(SamplerTest, ReferenceNoiseIsPhilox) {
  const uint32_t words[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (TokenId token = 0; token < 4; ++token) {
    const double u = ((words[token] >> 8) + 0.5) / 16777216.0;
    EXPECT_DOUBLE_EQ(ReferenceNoise(0, 0, 0, token), -std::log(-std::log(u)));
  }
}

TEST(SamplerTest, GreedyTiesGoToTheLowerId) {
  std::vector<float> logits(100, -1.0f);
  logits[41] = logits[40] = logits[99] = 3.0f;
  SamplingParams params;
  params.temperature = 0;
  Sampler sampler(Fastest(), 100);
  EXPECT_EQ(Draw{}.From(sampler, logits, params).token, 40u);
}

TEST(SamplerTest, TopKKeepsTiesAndTopPTakesTheLowerIdsOfThem) {
  const std::vector<float> logits(200, 0.5f);  // all equal
  Sampler sampler(Fastest(), 200);
  std::vector<bool> top_k(200), top_p(200);
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    SamplingParams params;
    params.seed = seed;
    params.top_k = 5;
    top_k[Draw{}.From(sampler, logits, params).token] = true;
    params.top_k = 0;
    params.top_p = 0.1f;  // the first 20 hold 0.1: the sum before the 21st reaches the mass
    top_p[Draw{}.From(sampler, logits, params).token] = true;
  }
  EXPECT_EQ(std::count(top_k.begin(), top_k.end(), true), 200);
  const auto end = std::find(top_p.begin(), top_p.end(), false);
  EXPECT_EQ(std::count(end, top_p.end(), true), 0);
  EXPECT_NEAR(static_cast<double>(end - top_p.begin()), 20, 1);  // 0.1f is not 1 / 10
}

TEST(SamplerTest, ExtremeParametersStillChooseAToken) {
  const std::vector<float> logits = RandomLogits(500, 3.0f, 9);
  Sampler sampler(Fastest(), 500);
  const TokenId best =
      static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  SamplingParams params;
  for (const float temperature : {1e-45f, 1e-38f, 1e-6f}) {
    params.temperature = temperature;
    params.top_p = 0.5f;
    EXPECT_EQ(Draw{}.From(sampler, logits, params).token, best) << temperature;
  }
  params.temperature = 1;
  params.top_p = std::numeric_limits<float>::min();
  EXPECT_EQ(Draw{}.From(sampler, logits, params).token, best);
  params.top_p = 1;
  params.min_p = 1;
  EXPECT_EQ(Draw{}.From(sampler, logits, params).token, best);
  params.min_p = 0;
  params.top_k = 1;
  EXPECT_EQ(Draw{}.From(sampler, logits, params).token, best);
  params.repetition_penalty = 1e-38f;
  EXPECT_LT(Draw{}.From(sampler, logits, params).token, 500u);
}

TEST(SamplerTest, SaysWhenALogitIsNotFinite) {
  for (const uint32_t at : {0u, 63u, 64u, 250u}) {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> logits = RandomLogits(251, 1.0f, at);
      Sampler sampler(Fastest(), 251);
      EXPECT_TRUE(Draw{}.From(sampler, logits, {}).finite);
      logits[at] = bad;
      EXPECT_FALSE(Draw{}.From(sampler, logits, {}).finite);
    }
  }
}

TEST(SamplerTest, LogprobsAreOfTheRawLogits) {
  constexpr uint32_t kVocabulary = 777;
  std::vector<float> logits = RandomLogits(kVocabulary, 2.0f, 11);
  logits[30] = logits[20] = 9.0f;
  SamplingParams params;
  params.temperature = 0.5f;
  params.top_k = 3;
  params.repetition_penalty = 1.8f;
  params.logit_bias = {{20, -50.0f}};
  params.logprobs = 5;
  Sampler sampler(Fastest(), kVocabulary);
  const Sampler::Choice choice = Draw{}.From(sampler, logits, params);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  EXPECT_NEAR(choice.logprobs.logprob, logits[choice.token] - std::log(sum), 1e-5);
  std::vector<TokenId> order(kVocabulary);
  for (TokenId i = 0; i < kVocabulary; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  ASSERT_EQ(choice.logprobs.top.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(choice.logprobs.top[i].token, order[i]);
    EXPECT_NEAR(choice.logprobs.top[i].logprob, logits[order[i]] - std::log(sum), 1e-5);
  }
}

}  // namespace
}  // namespace quire
