#ifndef QUIRE_TESTS_PARITY_PAGED_ANSWERS_H_
#define QUIRE_TESTS_PARITY_PAGED_ANSWERS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "tests/parity/engines.h"
#include "tests/parity/goldens.h"
#include "tests/worker/device/exactness/executor_under_test.h"

namespace quire {

inline constexpr uint32_t kPagedRunning = 32;  // sequences at once

// Tokens of the longest golden.
uint32_t LongestOf(const std::vector<Golden>& goldens);

// Of a device's executor, for AskPaged.
template <typename ExecutorOptions>
ExecutorOptions PagedOptions(const std::vector<Golden>& goldens) {
  ExecutorOptions options;
  options.num_slots = kPagedRunning;
  options.max_num_batched_tokens = 512;
  options.num_blocks = kPagedRunning * (LongestOf(goldens) / options.block_size + 1);
  return options;
}

// One answer a golden: batched, in random chunks.
std::vector<Answer> AskPaged(ExecutorUnderTest& executor, const std::vector<Golden>& goldens);

std::shared_ptr<const SamplingParams> Greedy(bool every_position);

// All tokens but the last: a prompt whose every position gives logits.
std::vector<TokenId> Forced(const Golden& golden);

}  // namespace quire

#endif  // QUIRE_TESTS_PARITY_PAGED_ANSWERS_H_
