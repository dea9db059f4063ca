#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SUBJECT_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SUBJECT_H_

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "tests/worker/device/exactness/executor_driver.h"
#include "tests/worker/device/exactness/executor_under_test.h"
#include "worker/engine/engine.h"

namespace quire {

// Requests whose prompts begin alike: min_shared to max_shared - 1 tokens of one of three random
// beginnings, then 1 to max_own tokens of their own.
struct PromptGroup {
  uint32_t num_requests = 0;
  uint32_t min_shared = 0;
  uint32_t max_shared = 0;
  uint32_t max_own = 0;
};

struct SubjectOptions {
  std::vector<PromptGroup> groups = {{.num_requests = 24, .max_shared = 70, .max_own = 40}};
  uint32_t max_new_tokens = 30;
  // Requests more, whose prompts are another's prompt and output and a few tokens: they find blocks
  // of generated tokens in the prefix cache.
  uint32_t num_follow_ups = 0;
  // Every fifth request ends at a token of its output.
  bool with_stop_tokens = false;
  // Longer prompts do not ask for log-probabilities of their tokens, so that only their last
  // position gives logits: bounds the memory for what is expected.
  uint32_t max_prompt_with_logits = std::numeric_limits<uint32_t>::max();
};

// Some requests, and what each of their choices gives alone, one position a step. The same options
// and vocabulary give the same requests. The seed of request i is 1000 + i, as TestParams sets it.
class EngineSubject {
 public:
  // Runs every choice on `alone`.
  EngineSubject(const SubjectOptions& options, ExecutorUnderTest& alone);

  uint32_t num_requests() const { return static_cast<uint32_t>(requests_.size()); }
  const EngineRequest& request(uint32_t i) const { return requests_[i]; }
  // The request whose prompt and output begin the prompt of this one. Empty: it is no follow-up.
  std::optional<uint32_t> source(uint32_t i) const;

  // What a choice gives when nothing stops it.
  const TestSequence& alone(uint32_t i, uint32_t choice) const { return alone_.at({i, choice}); }
  // How many tokens of that the request lets pass: all, or up to its stop token.
  uint32_t output_length(uint32_t i, uint32_t choice) const;
  // Whether a stop token ends the choice.
  bool stops(uint32_t i, uint32_t choice) const;

 private:
  void AddGroup(const PromptGroup& group);
  void AddFollowUp(uint32_t source);
  void AddRequest(std::vector<TokenId> prompt, uint32_t n, bool wants_prompt_logits);
  void RunAlone(uint32_t i, ExecutorUnderTest& alone);

  const SubjectOptions options_;
  const uint32_t vocabulary_size_;
  std::mt19937 random_{3};
  std::vector<EngineRequest> requests_;
  std::map<uint32_t, uint32_t> sources_;                         // of follow-ups
  std::map<std::pair<uint32_t, uint32_t>, TestSequence> alone_;  // by request and choice
};

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SUBJECT_H_
