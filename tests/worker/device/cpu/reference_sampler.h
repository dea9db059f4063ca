#ifndef QUIRE_TESTS_WORKER_DEVICE_CPU_REFERENCE_SAMPLER_H_
#define QUIRE_TESTS_WORKER_DEVICE_CPU_REFERENCE_SAMPLER_H_

#include <vector>

#include "scheduler/sampling_params.h"

namespace quire {

// The sampler's definition (sampler.h) by the plainest means: doubles, full sorts, one token after
// the other.

// Probability of every token after bias, penalties and filters. `output` and `prompt` are the
// tokens so far.
std::vector<double> ReferenceProbabilities(const std::vector<float>& logits,
                                           const SamplingParams& params,
                                           const std::vector<TokenId>& prompt,
                                           const std::vector<TokenId>& output);

// The Gumbel noise of a token.
double ReferenceNoise(uint64_t seed, uint32_t position, uint32_t choice, TokenId token);

// The token drawn at position prompt.size() + output.size().
TokenId ReferenceSample(const std::vector<float>& logits, const SamplingParams& params,
                        const std::vector<TokenId>& prompt, const std::vector<TokenId>& output);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_CPU_REFERENCE_SAMPLER_H_
