#ifndef QUIRE_WORKER_MODEL_ROPE_H_
#define QUIRE_WORKER_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "worker/model/model_config.h"

// Rotary position embedding (Su et al., arXiv:2104.09864) as Hugging Face applies it: the first
// half of a head is rotated against the second ("rotate half"), for i < head_dim / 2 at position p:
//   out[i]        = x[i] · cos[p, i] − x[i + half] · sin[p, i]
//   out[i + half] = x[i + half] · cos[p, i] + x[i] · sin[p, i]
namespace quire {

// cos and sin of every angle, [context_length, half] row-major, in fp32. Executors that compute in
// bf16 round them to bf16 first, as Hugging Face does.
struct RopeTables {
  uint32_t context_length = 0;
  uint32_t half = 0;  // head_dim / 2
  std::vector<float> cos;
  std::vector<float> sin;
};

// [head_dim / 2], in fp32 with the roundings of transformers' modeling_rope_utils.py; scaling
// 'llama3' and 'linear' included.
std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, uint32_t head_dim);

// The angle is the fp32 product position · inverse frequency, as in transformers. Same bits on
// every host: nothing here calls libm's sin, cos or pow, which differ between versions.
RopeTables ComputeRopeTables(const RopeConfig& rope, uint32_t head_dim, uint32_t context_length);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_ROPE_H_
