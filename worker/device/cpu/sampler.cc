#include "worker/device/cpu/sampler.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <limits>

#include "scheduler/check.h"

namespace quire {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kNoTieLimit = 0x7FFFFFFF;
constexpr uint32_t kSmall = 64;  // candidates that are sorted rather than halved
constexpr uint32_t kSlack = 16;  // elements that the kernels may write beyond

bool HasPenalty(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

// A logit that overflowed would turn score differences into NaN.
float Clamp(float logit) { return std::clamp(logit, -FLT_MAX, FLT_MAX); }

}  // namespace

Sampler::Sampler(const SamplingKernels& kernels, uint32_t vocabulary_size)
    : kernels_(kernels), vocabulary_size_(vocabulary_size) {
  QUIRE_CHECK(vocabulary_size > 0 && vocabulary_size < kNoTieLimit - 64);
  const size_t padded = (vocabulary_size + 63) / 64 * 64;
  adjusted_.resize(vocabulary_size);
  scores_.resize(padded);
  weights_.resize(padded);
  candidate_scores_.resize(padded + kSlack);
  candidate_weights_.resize(padded + kSlack);
  candidate_ids_.resize(padded + kSlack);
}

Sampler::Choice Sampler::Sample(const Row& row, const SamplingParams& params) {
  Choice choice;
  const RowMax raw = kernels_.row_max(row.logits, vocabulary_size_);
  choice.finite = raw.finite;
  if (!raw.finite) return choice;

  const float* logits = Adjust(row, params);
  const RowMax best = logits == row.logits ? raw : kernels_.arg_max(logits, vocabulary_size_);
  if (params.temperature < FLT_MIN) {
    choice.token = best.index;
  } else {
    kernels_.score(logits, vocabulary_size_, best.max, params.temperature, scores_.data(),
                   weights_.data());
    const KeptSet kept = Filter(params);
    choice.token = kernels_.gumbel_arg_max(scores_.data(), weights_.data(), vocabulary_size_, kept,
                                           {params.seed, row.position, params.choice});
  }
  if (params.logprobs) {
    FillLogprobs(row.logits, raw.max, choice.token, *params.logprobs, &choice.logprobs);
  }
  return choice;
}

bool Sampler::Logprobs(const float* logits, TokenId token, uint32_t num_top, TokenLogprobs* out) {
  const RowMax raw = kernels_.row_max(logits, vocabulary_size_);
  if (raw.finite) FillLogprobs(logits, raw.max, token, num_top, out);
  return raw.finite;
}

void Sampler::FillLogprobs(const float* logits, float max, TokenId token, uint32_t num_top,
                           TokenLogprobs* out) {
  const float normalizer = kernels_.log_sum_exp(logits, vocabulary_size_, max);
  out->logprob = logits[token] - normalizer;
  out->top.clear();
  num_top = std::min(num_top, vocabulary_size_);
  if (num_top == 0) return;
  std::array<uint32_t, 32> top;
  QUIRE_CHECK(num_top <= top.size());
  kernels_.top(logits, vocabulary_size_, num_top, top.data());
  for (uint32_t i = 0; i < num_top; ++i) {
    out->top.push_back({top[i], logits[top[i]] - normalizer});
  }
}

const float* Sampler::Adjust(const Row& row, const SamplingParams& params) {
  const bool bans_eos =
      row.num_output_tokens < params.min_new_tokens && !params.eos_token_ids.empty();
  if (!HasPenalty(params) && params.logit_bias.empty() && !bans_eos) return row.logits;

  std::copy_n(row.logits, vocabulary_size_, adjusted_.data());
  for (const auto& [token, bias] : params.logit_bias) {
    adjusted_[token] = Clamp(adjusted_[token] + bias);
  }
  if (HasPenalty(params)) {
    // A denormal would be taken as zero, and 0 / 0 is no logit.
    const float repetition = std::max(params.repetition_penalty, FLT_MIN);
    for (const TokenCounts::Entry& entry : row.counts->entries()) {
      float logit = adjusted_[entry.token];
      logit = logit < 0 ? logit * repetition : logit / repetition;
      if (entry.num_output > 0) {
        logit -= params.frequency_penalty * static_cast<float>(entry.num_output);
        logit -= params.presence_penalty;
      }
      adjusted_[entry.token] = Clamp(logit);
    }
  }
  if (bans_eos) {
    for (const TokenId token : params.eos_token_ids) adjusted_[token] = -kInfinity;
  }
  return adjusted_.data();
}

KeptSet Sampler::Filter(const SamplingParams& params) {
  KeptSet kept;
  if (params.top_k > 0 && params.top_k < vocabulary_size_) {
    kept.threshold = KthLargestScore(params.top_k);
    kept.end_tie = kNoTieLimit;
  }
  if (params.top_p < 1.0f) FilterTopP(params.top_p, &kept);
  kept.min_weight = params.min_p;
  return kept;
}

template <typename GoesUp>
void Sampler::Narrow(GoesUp goes_up) {
  float* scores = candidate_scores_.data();
  float* weights = candidate_weights_.data();
  uint32_t* ids = candidate_ids_.data();
  // A first guess that any pivot may start from; the passes then tell the true range.
  float lowest = -88.0f;
  float highest = 0.0f;
  while (num_candidates_ > kSmall && lowest < highest) {
    float pivot = lowest + (highest - lowest) * 0.5f;
    if (!(pivot < highest)) pivot = lowest;
    uint32_t count = 0;
    const double mass = kernels_.mass_above(scores, weights, num_candidates_, pivot, &count);
    const bool upper = count == num_candidates_ || (count > 0 && goes_up(mass, count));
    num_candidates_ =
        kernels_.partition(scores, weights, ids, num_candidates_, pivot, upper, &lowest, &highest);
  }
  if (!(lowest < highest)) return;  // equal scores lie in order of their ids
  struct Candidate {
    float score, weight;
    uint32_t id;
  };
  std::array<Candidate, kSmall> sorted;
  for (uint32_t i = 0; i < num_candidates_; ++i) sorted[i] = {scores[i], weights[i], ids[i]};
  std::sort(sorted.begin(), sorted.begin() + num_candidates_,
            [](const Candidate& a, const Candidate& b) {
              return a.score != b.score ? a.score > b.score : a.id < b.id;
            });
  for (uint32_t i = 0; i < num_candidates_; ++i) {
    scores[i] = sorted[i].score;
    weights[i] = sorted[i].weight;
    ids[i] = sorted[i].id;
  }
}

float Sampler::KthLargestScore(uint32_t k) {
  // Weights are of no interest here: every finite score counts.
  num_candidates_ =
      kernels_.gather(scores_.data(), weights_.data(), vocabulary_size_, -FLT_MAX, -1.0f,
                      candidate_scores_.data(), candidate_weights_.data(), candidate_ids_.data());
  if (num_candidates_ <= k) return -FLT_MAX;
  uint32_t above = 0;
  Narrow([&](double, uint32_t count) {
    if (above + count >= k) return true;
    above += count;
    return false;
  });
  return candidate_scores_[k - above - 1];
}

void Sampler::FilterTopP(float top_p, KeptSet* kept) {
  // Where e^score is zero there is no mass, so top_p < 1 never reaches it.
  num_candidates_ =
      kernels_.gather(scores_.data(), weights_.data(), vocabulary_size_, kept->threshold, 0.0f,
                      candidate_scores_.data(), candidate_weights_.data(), candidate_ids_.data());
  uint32_t count = 0;
  const double total = kernels_.mass_above(candidate_scores_.data(), candidate_weights_.data(),
                                           num_candidates_, -kInfinity, &count);
  const double target = top_p * total;
  double above = 0;
  Narrow([&](double mass, uint32_t) {
    if (above + mass >= target) return true;
    above += mass;
    return false;
  });
  uint32_t last = 0;
  for (uint32_t i = 0; i < num_candidates_ && above < target; ++i) {
    last = i;
    above += candidate_weights_[i];
  }
  kept->threshold = candidate_scores_[last];
  kept->end_tie = candidate_ids_[last] + 1;
}

}  // namespace quire
