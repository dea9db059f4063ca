#ifndef QUIRE_SCHEDULER_SAMPLING_PARAMS_H_
#define QUIRE_SCHEDULER_SAMPLING_PARAMS_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace quire {

using TokenId = uint32_t;

// How the next token is chosen from a row of logits: every value resolved, none out of range (the
// coordinator's validate saw to that). docs/numerics.md, E4, defines what each does.
struct SamplingParams {
  float temperature = 1.0f;  // 0 is greedy: the filters below are skipped
  uint32_t top_k = 0;        // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off
  uint64_t seed = 0;
  uint32_t choice = 0;  // which of the request's n choices this is: part of the random counter

  float repetition_penalty = 1.0f;                    // over prompt and output; 1: off
  float presence_penalty = 0.0f;                      // over output; 0: off
  float frequency_penalty = 0.0f;                     // over output; 0: off
  std::vector<std::pair<TokenId, float>> logit_bias;  // sorted by id, each id once

  uint32_t min_new_tokens = 0;          // until then the ids in eos_token_ids cannot be sampled
  std::vector<TokenId> eos_token_ids;   // sorted
  std::vector<TokenId> stop_token_ids;  // sorted; any of them ends the choice, and is emitted

  std::optional<uint32_t> logprobs;         // alternatives to report for an output token, 0..20
  std::optional<uint32_t> prompt_logprobs;  // the same for prompt tokens
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_SAMPLING_PARAMS_H_
