#include "tests/worker/device/cpu/reference_sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace quire {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> Softmax(const std::vector<double>& scores) {
  const double max = *std::max_element(scores.begin(), scores.end());
  std::vector<double> result(scores.size());
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i) sum += result[i] = std::exp(scores[i] - max);
  for (double& p : result) p /= sum;
  return result;
}

std::vector<double> Adjusted(const std::vector<float>& logits, const SamplingParams& params,
                             const std::vector<TokenId>& prompt,
                             const std::vector<TokenId>& output) {
  std::vector<double> scores(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.logit_bias) scores[token] += bias;
  std::set<TokenId> seen(prompt.begin(), prompt.end());
  seen.insert(output.begin(), output.end());
  for (const TokenId token : seen) {
    double& s = scores[token];
    s = s < 0 ? s * params.repetition_penalty : s / params.repetition_penalty;
  }
  std::map<TokenId, int> counts;
  for (const TokenId token : output) ++counts[token];
  for (const auto& [token, count] : counts) {
    scores[token] -= params.frequency_penalty * count + params.presence_penalty;
  }
  if (output.size() < params.min_new_tokens) {
    for (const TokenId token : params.eos_token_ids) scores[token] = -kInfinity;
  }
  return scores;
}

std::vector<double> Filtered(std::vector<double> scores, const SamplingParams& params) {
  for (double& s : scores) s /= params.temperature;
  if (params.top_k > 0 && params.top_k < scores.size()) {
    std::vector<double> sorted = scores;
    std::sort(sorted.rbegin(), sorted.rend());
    for (double& s : scores) {
      if (s < sorted[params.top_k - 1]) s = -kInfinity;
    }
  }
  if (params.top_p < 1) {
    const std::vector<double> probabilities = Softmax(scores);
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    double before = 0;
    for (const size_t i : order) {
      if (before >= params.top_p) scores[i] = -kInfinity;
      before += probabilities[i];
    }
  }
  const std::vector<double> probabilities = Softmax(scores);
  const double top = *std::max_element(probabilities.begin(), probabilities.end());
  for (size_t i = 0; i < scores.size(); ++i) {
    if (probabilities[i] < params.min_p * top) scores[i] = -kInfinity;
  }
  return scores;
}

// Written from the paper's description, one counter at a time.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

}  // namespace

std::vector<double> ReferenceProbabilities(const std::vector<float>& logits,
                                           const SamplingParams& params,
                                           const std::vector<TokenId>& prompt,
                                           const std::vector<TokenId>& output) {
  return Softmax(Filtered(Adjusted(logits, params, prompt, output), params));
}

double ReferenceNoise(uint64_t seed, uint32_t position, uint32_t choice, TokenId token) {
  const uint32_t word = Philox({position, choice, token / 4, 0}, seed)[token % 4];
  const double u = ((word >> 8) + 0.5) * std::ldexp(1.0, -24);
  return -std::log(-std::log(u));
}

TokenId ReferenceSample(const std::vector<float>& logits, const SamplingParams& params,
                        const std::vector<TokenId>& prompt, const std::vector<TokenId>& output) {
  std::vector<double> scores = Adjusted(logits, params, prompt, output);
  if (params.temperature > 0) {
    scores = Filtered(scores, params);
    const uint32_t position = static_cast<uint32_t>(prompt.size() + output.size());
    for (TokenId i = 0; i < scores.size(); ++i) {
      scores[i] += ReferenceNoise(params.seed, position, params.choice, i);
    }
  }
  return static_cast<TokenId>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

}  // namespace quire
