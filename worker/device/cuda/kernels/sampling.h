#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_H_

#include <cuda_runtime_api.h>

#include <cstdint>

// From rows of logits to tokens and log-probabilities, on the device: the definition of E4 as
// worker/device/cpu/sampler.h states it, one row at a time. A row's result depends on its logits,
// its slot's parameters and counts and its position alone: sums are of integers, so that no order
// of additions matters.
namespace quire::cuda {

inline constexpr uint32_t kMaxBiases = 1024;   // of a slot: api.md's limit
inline constexpr uint32_t kMaxEosTokens = 64;  // likewise
inline constexpr uint32_t kMaxTop = 20;        // alternatives a row reports
// What a cluster's shared memories hold of a row.
inline constexpr uint32_t kMaxVocabulary = 440000;

// Sampling parameters of a slot, as the device holds them.
struct SlotSampling {
  float temperature = 1.0f;  // below the smallest normal number: greedy
  uint32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
  uint32_t choice = 0;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint32_t min_new_tokens = 0;
  uint32_t num_biases = 0;
  uint32_t num_eos_tokens = 0;
  uint32_t has_penalty = 0;  // 1: counts are kept
};

// One row of logits.
struct LogitsRow {
  int32_t slot = 0;                // negative: a padding row, nothing happens
  uint32_t position = 0;           // of the token that follows the row
  uint32_t num_output_tokens = 0;  // emitted before that token
  uint32_t samples = 0;            // 1: the row brings a token, which becomes the slot's last one
  int32_t prompt_token = -1;  // the prompt's own next token, whose log-probability is asked for
  // Alternatives to report for the sampled token and for the prompt's; negative: no
  // log-probabilities.
  int32_t num_top = -1;
  int32_t num_prompt_top = -1;
};

// Of a token, and of the likeliest ones: most likely first, ties to the lower id. Of those, as many
// as were asked for and the vocabulary has.
struct RowLogprobs {
  float logprob = 0;
  uint32_t top_tokens[kMaxTop];
  float top_logprobs[kMaxTop];
};

struct RowResult {
  uint32_t token = 0;  // of a row that samples
  // NumericFault: where the row's numbers stopped being finite. Not kNone: the rest means nothing,
  // and the slot is unchanged unless the logits are finite all the same.
  uint32_t fault = 0;
};

struct SamplingArgs {
  uint32_t num_rows = 0;
  uint32_t vocabulary_size = 0;
  const float* logits = nullptr;  // [num_rows, vocabulary_size], unchanged
  const LogitsRow* rows = nullptr;

  // Of all slots.
  const SlotSampling* slots = nullptr;
  const uint32_t* bias_tokens = nullptr;  // [num_slots, kMaxBiases]
  const float* bias_values = nullptr;
  const uint32_t* eos_tokens = nullptr;  // [num_slots, kMaxEosTokens]
  // [num_slots, vocabulary_size]: times a token was put out; bit 31: it is in the prompt. Rows of
  // slots without penalties mean nothing. A sampled token is counted.
  uint32_t* counts = nullptr;
  int32_t* last_tokens = nullptr;  // [num_slots]

  // The model's word on its rows (NumericFault), and which of them the rows of logits are,
  // [num_rows]; null: none had a fault.
  const uint8_t* faults = nullptr;
  const int32_t* logits_rows = nullptr;

  // May lie in page-locked memory of the host.
  RowResult* results = nullptr;            // [num_rows]
  RowLogprobs* logprobs = nullptr;         // [num_rows]; of rows that ask
  RowLogprobs* prompt_logprobs = nullptr;  // [num_rows]; of rows that ask
};

// What a launch must be able to do: the common case, greedy rows without extras, need not pay for
// the others.
struct SamplingNeeds {
  bool draws = false;     // some row has a temperature, bias, penalty or min_new_tokens
  bool logprobs = false;  // some row asks for log-probabilities
};
// One launch. An error if the vocabulary is larger than kMaxVocabulary.
cudaError_t Sample(const SamplingArgs& args, SamplingNeeds needs, cudaStream_t stream);

// Rebuilds a slot's counts from its tokens, [num_tokens] on the device: the first num_prompt_tokens
// are the prompt.
cudaError_t FillCounts(const int32_t* tokens, uint32_t num_tokens, uint32_t num_prompt_tokens,
                       uint32_t* counts, uint32_t vocabulary_size, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_H_
