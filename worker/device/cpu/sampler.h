#ifndef QUIRE_WORKER_DEVICE_CPU_SAMPLER_H_
#define QUIRE_WORKER_DEVICE_CPU_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "scheduler/batch/step_plan.h"
#include "scheduler/sampling_params.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/token_counts.h"

namespace quire {

// Counts every change of what follows; a part of numerics_id.
inline constexpr uint32_t kSamplerVersion = 1;

// Chooses the next token from a row of logits: a pure function of the logits, the parameters (seed
// and choice among them), the tokens so far and the absolute position (docs/numerics.md, E4).
//
// In this order, as Hugging Face 5.17 has it:
//   logit_bias      logit += bias
//   repetition      tokens in prompt or output: logit < 0 ? logit · r : logit / r
//   frequency, presence   tokens in the output: logit −= frequency · count + presence
//   min_new_tokens  until that many are out: EOS ids become −inf
//   (temperature 0, or below the smallest normal number: the largest logit, ties to the lower id.)
//   temperature     score = (logit − largest logit) / T
//   top_k           scores below the k-th largest go; those equal to it stay
//   top_p           a token stays iff the tokens before it, by falling score and rising id, hold
//                   less than top_p of the mass that top_k left. (Hugging Face sorts ascending and
//                   drops while the running sum is <= 1 − top_p: the same set, up to rounding and
//                   the order of equal scores, which torch leaves open.)
//   min_p           tokens less likely than min_p times the likeliest go
// then the arg max over what is left of score + g(u), ties to the lower id, which draws a token
// with its softmax probability (the Gumbel-max trick). Subtracting the largest logit changes no
// difference between scores and keeps them exact where it matters.
//
// The noise of token t: word t % 4 of Philox4x32-10 with the seed as key and the counter (position,
// choice, t / 4, 0); u = ((word >> 8) + 0.5) · 2^−24, g = −log(−log u). `position` is the absolute
// position of the token being sampled: the number of tokens before it, prompt and output.
//
// Not thread safe: one for each thread, which owns the scratch.
class Sampler {
 public:
  // REQUIRES: 0 < vocabulary_size < 2^31.
  Sampler(const SamplingKernels& kernels, uint32_t vocabulary_size);

  // A row of logits as the sampler sees it.
  struct Row {
    const float* logits = nullptr;  // [vocabulary], unchanged
    uint32_t position = 0;
    uint32_t num_output_tokens = 0;       // emitted before
    const TokenCounts* counts = nullptr;  // may be null if no penalty is set
  };

  struct Choice {
    bool finite = false;  // false: some logit was not; the rest means nothing
    TokenId token = 0;
    TokenLogprobs logprobs;  // with params.logprobs
  };
  Choice Sample(const Row& row, const SamplingParams& params);

  // Log-probabilities of `token` and of the `num_top` likeliest under the raw logits. False if they
  // are not finite. REQUIRES: num_top <= 32.
  bool Logprobs(const float* logits, TokenId token, uint32_t num_top, TokenLogprobs* out);

 private:
  void FillLogprobs(const float* logits, float max, TokenId token, uint32_t num_top,
                    TokenLogprobs* out);
  // The logits after bias, penalties and min_new_tokens: the same array if nothing applies.
  const float* Adjust(const Row& row, const SamplingParams& params);
  KeptSet Filter(const SamplingParams& params);
  float KthLargestScore(uint32_t k);
  void FilterTopP(float top_p, KeptSet* kept);
  // Narrows the candidates to those around a border by halving the range of their scores. `goes_up`
  // says, from mass and count of the candidates above a pivot, whether the border is among them; if
  // not, it was told for good and they are dropped. Leaves at most kSmall candidates, or equal
  // ones, by falling score and rising index.
  template <typename GoesUp>
  void Narrow(GoesUp goes_up);

  const SamplingKernels& kernels_;
  const uint32_t vocabulary_size_;
  std::vector<float> adjusted_;
  std::vector<float> scores_;   // padded to a multiple of 64
  std::vector<float> weights_;  // e^score
  // Candidates for the border of top_k or top_p.
  std::vector<float> candidate_scores_;
  std::vector<float> candidate_weights_;
  std::vector<uint32_t> candidate_ids_;
  uint32_t num_candidates_ = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_SAMPLER_H_
