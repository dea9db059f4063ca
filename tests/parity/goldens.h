#ifndef QUIRE_TESTS_PARITY_GOLDENS_H_
#define QUIRE_TESTS_PARITY_GOLDENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/sampling_params.h"

namespace quire {

// What transformers gave for one prompt.
struct Golden {
  std::vector<TokenId> ids;  // the prompt's, then the new ones
  uint32_t num_prompt_tokens = 0;
  uint32_t vocabulary = 0;
  std::vector<float> logits;  // [ids.size() - 1, vocabulary]: row i predicts ids[i + 1]

  const float* row(uint32_t position) const {
    return logits.data() + size_t{position} * vocabulary;
  }
  std::vector<TokenId> prompt() const { return {ids.begin(), ids.begin() + num_prompt_tokens}; }
  std::vector<TokenId> output() const { return {ids.begin() + num_prompt_tokens, ids.end()}; }
};

// Reads what make_goldens.py wrote. Ends the process if it is not that.
std::vector<Golden> ReadGoldens(const std::string& file);

}  // namespace quire

#endif  // QUIRE_TESTS_PARITY_GOLDENS_H_
