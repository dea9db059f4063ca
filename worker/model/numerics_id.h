#ifndef QUIRE_WORKER_MODEL_NUMERICS_ID_H_
#define QUIRE_WORKER_MODEL_NUMERICS_ID_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/model/weights.h"

// The name of everything that can change a token: two workers with equal ids give equal tokens
// (docs/numerics.md).
namespace quire {

// (what, value), for example {"attention_segment_tokens", "256"}.
using NumericsParts = std::vector<std::pair<std::string, std::string>>;

// The model's own share: the config fields used, the weight dtype and every tensor's digest. An
// executor appends its own parts: recipe and sampler version, KV dtype, attention segment
// length. The size of a tensor-parallel group is none of them: it changes no bit.
NumericsParts ModelNumericsParts(const Weights& weights, uint32_t num_threads);

// SHA-256 over the parts, order included, as 64 hexadecimal digits. Each part is hashed with its
// length, so that no two lists of parts give the same bytes.
std::string NumericsId(const NumericsParts& parts);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_NUMERICS_ID_H_
