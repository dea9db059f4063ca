#include "clients/cli/token_equality.h"

#include <algorithm>

namespace quire {
namespace {

constexpr double kTieFraction = 1e-5;

}  // namespace

std::optional<size_t> FirstDifference(const std::vector<std::vector<uint32_t>>& outputs,
                                      const std::vector<uint32_t>& reference) {
  std::optional<size_t> first;
  for (const std::vector<uint32_t>& output : outputs) {
    if (output == reference) continue;
    const auto place =
        std::mismatch(output.begin(), output.end(), reference.begin(), reference.end()).first;
    const size_t index = place - output.begin();
    first = std::min(index, first.value_or(index));
  }
  return first;
}

bool IsTie(const v1::TokenLogprobs& token) {
  if (token.top_size() < 2) return false;
  const double best = token.top(0).logprob();
  const double gap = best - token.top(1).logprob();
  const double widest = best - token.top(token.top_size() - 1).logprob();
  return gap <= kTieFraction * widest / 2;
}

}  // namespace quire
