#include "tests/parity/paged_answers.h"

#include <algorithm>

#include "scheduler/check.h"
#include "tests/worker/device/exactness/executor_driver.h"

namespace quire {

uint32_t LongestOf(const std::vector<Golden>& goldens) {
  size_t longest = 0;
  for (const Golden& golden : goldens) longest = std::max(longest, golden.ids.size());
  return static_cast<uint32_t>(longest);
}

std::shared_ptr<const SamplingParams> Greedy(bool every_position) {
  auto params = std::make_shared<SamplingParams>();
  params->temperature = 0;
  if (every_position) params->prompt_logprobs = 0;
  return params;
}

std::vector<TokenId> Forced(const Golden& golden) {
  return {golden.ids.begin(), golden.ids.end() - 1};
}

std::vector<Answer> AskPaged(ExecutorUnderTest& executor, const std::vector<Golden>& goldens) {
  std::vector<TestSequence> sequences;
  for (const Golden& golden : goldens) {
    TestSequence& free = sequences.emplace_back();
    free.prompt = golden.prompt();
    free.num_new_tokens = static_cast<uint32_t>(golden.output().size());
    free.params = Greedy(false);
    TestSequence& forced = sequences.emplace_back();
    forced.prompt = Forced(golden);
    forced.num_new_tokens = 1;
    forced.params = Greedy(true);
  }
  RunSequences(executor, {.seed = 1, .max_running = kPagedRunning, .max_chunk = 64}, sequences);

  std::vector<Answer> answers(goldens.size());
  for (size_t i = 0; i < goldens.size(); ++i) {
    QUIRE_CHECK(sequences[2 * i].faults.empty() && sequences[2 * i + 1].faults.empty());
    answers[i].output = sequences[2 * i].output;
    for (const auto& [position, row] : sequences[2 * i + 1].logits) {
      answers[i].logits.insert(answers[i].logits.end(), row.begin(), row.end());
    }
  }
  return answers;
}

}  // namespace quire
