#ifndef QUIRE_CLIENTS_CLI_TOKEN_EQUALITY_H_
#define QUIRE_CLIENTS_CLI_TOKEN_EQUALITY_H_

#include <quire/v1/inference.pb.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace quire {

// The first index at which any of the outputs differs from the reference; a missing or an extra
// token differs. Empty if all are equal to it.
std::optional<size_t> FirstDifference(const std::vector<std::vector<uint32_t>>& outputs,
                                      const std::vector<uint32_t>& reference);

// Whether the model could as well have taken its second best token, by rule E3 of docs/numerics.md:
// the two best logits are at most 1e-5 of max |logit| apart. `token` has the best alternatives,
// best first.
//
// Log-probabilities give differences of logits, not their size. But of two logits a and b one is at
// least |a - b| / 2 in size, so half the widest known difference is a lower bound of max |logit|: a
// tie by this rule is always one by E3, and a tie by E3 may be missed where few alternatives are
// known.
bool IsTie(const v1::TokenLogprobs& token);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_TOKEN_EQUALITY_H_
