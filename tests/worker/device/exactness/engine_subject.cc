#include "tests/worker/device/exactness/engine_subject.h"

#include <algorithm>
#include <memory>

#include "scheduler/check.h"
#include "tests/worker/device/exactness/random.h"
#include "tests/worker/device/exactness/test_models.h"

namespace quire {
namespace {

constexpr size_t kNumBeginnings = 3;
constexpr uint32_t kMaxFollowing = 20;  // tokens of a follow-up's own

bool IsStop(const EngineRequest& request, TokenId token) {
  const std::vector<TokenId>& stops = request.params.stop_token_ids;
  return std::binary_search(stops.begin(), stops.end(), token);
}

}  // namespace

EngineSubject::EngineSubject(const SubjectOptions& options, ExecutorUnderTest& alone)
    : options_(options), vocabulary_size_(alone.limits().vocabulary_size) {
  for (const PromptGroup& group : options.groups) AddGroup(group);
  const uint32_t num_first = num_requests();
  for (uint32_t i = 0; i < num_first; ++i) RunAlone(i, alone);
  // From the last group on, those with a long output.
  for (uint32_t i = num_first; i-- > 0 && sources_.size() < options.num_follow_ups;) {
    if (2 * requests_[i].max_new_tokens <= options.max_new_tokens) continue;
    AddFollowUp(i);
    RunAlone(num_requests() - 1, alone);
  }
  QUIRE_CHECK(sources_.size() == options.num_follow_ups);
  if (!options.with_stop_tokens) return;
  for (uint32_t i = 0; i < num_first; i += 5) {
    const std::vector<TokenId>& output = alone_.at({i, 0}).output;
    requests_[i].params.stop_token_ids = {output[output.size() / 2]};
  }
}

void EngineSubject::AddGroup(const PromptGroup& group) {
  std::vector<std::vector<TokenId>> beginnings(kNumBeginnings,
                                               std::vector<TokenId>(group.max_shared));
  for (auto& beginning : beginnings) {
    for (TokenId& token : beginning) token = Below(random_, vocabulary_size_);
  }
  for (uint32_t i = 0; i < group.num_requests; ++i) {
    const auto& beginning = beginnings[Below(random_, kNumBeginnings)];
    const uint32_t num_shared =
        group.min_shared + Below(random_, group.max_shared - group.min_shared);
    std::vector<TokenId> prompt(beginning.begin(), beginning.begin() + num_shared);
    for (uint32_t own = 1 + Below(random_, group.max_own); own > 0; --own) {
      prompt.push_back(Below(random_, vocabulary_size_));
    }
    const bool wants_prompt_logits = prompt.size() <= options_.max_prompt_with_logits;
    AddRequest(std::move(prompt), 1 + Below(random_, 2), wants_prompt_logits);
  }
}

void EngineSubject::AddFollowUp(uint32_t source) {
  std::vector<TokenId> prompt = requests_[source].prompt;
  const std::vector<TokenId>& output = alone_.at({source, 0}).output;
  prompt.insert(prompt.end(), output.begin(), output.end());
  for (uint32_t own = 1 + Below(random_, kMaxFollowing); own > 0; --own) {
    prompt.push_back(Below(random_, vocabulary_size_));
  }
  sources_[num_requests()] = source;
  AddRequest(std::move(prompt), 1, false);  // who asks for a prompt's logits bypasses the cache
}

void EngineSubject::AddRequest(std::vector<TokenId> prompt, uint32_t n, bool wants_prompt_logits) {
  EngineRequest request;
  request.key = {0, num_requests()};
  request.prompt = std::move(prompt);
  request.params = *TestParams(num_requests());
  if (!wants_prompt_logits) request.params.prompt_logprobs.reset();
  request.n = n;
  request.max_new_tokens = 1 + Below(random_, options_.max_new_tokens);
  request.priority = static_cast<int32_t>(Below(random_, 3));
  requests_.push_back(std::move(request));
}

void EngineSubject::RunAlone(uint32_t i, ExecutorUnderTest& alone) {
  const EngineRequest& request = requests_[i];
  for (uint32_t choice = 0; choice < request.n; ++choice) {
    auto params = std::make_shared<SamplingParams>(request.params);
    params->choice = choice;
    std::vector<TestSequence> one(1);
    one[0].prompt = request.prompt;
    one[0].num_new_tokens = request.max_new_tokens;
    one[0].params = std::move(params);
    RunSequences(alone, {.seed = i, .max_running = 1, .max_chunk = 1}, one);
    QUIRE_CHECK(one[0].faults.empty());
    alone_[{i, choice}] = std::move(one[0]);
  }
}

std::optional<uint32_t> EngineSubject::source(uint32_t i) const {
  const auto found = sources_.find(i);
  if (found == sources_.end()) return std::nullopt;
  return found->second;
}

uint32_t EngineSubject::output_length(uint32_t i, uint32_t choice) const {
  const std::vector<TokenId>& output = alone(i, choice).output;
  const auto stop = std::find_if(output.begin(), output.end(),
                                 [&](TokenId token) { return IsStop(requests_[i], token); });
  return static_cast<uint32_t>(stop - output.begin()) + (stop == output.end() ? 0 : 1);
}

bool EngineSubject::stops(uint32_t i, uint32_t choice) const {
  return IsStop(requests_[i], alone(i, choice).output[output_length(i, choice) - 1]);
}

}  // namespace quire
