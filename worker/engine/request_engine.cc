#include "worker/engine/request_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

const std::vector<TokenId>& EmittedOf(const EngineRequest& request, uint32_t choice) {
  static const std::vector<TokenId> kNone;
  return choice < request.emitted.size() ? request.emitted[choice] : kNone;
}

bool IsFinished(const EngineRequest& request, uint32_t choice) {
  return choice < request.choice_finished.size() && request.choice_finished[choice];
}

}  // namespace

RequestEngine::RequestEngine(const Options& options, std::unique_ptr<SequenceScheduler> scheduler)
    : options_(options), scheduler_(std::move(scheduler)) {}

absl::Status RequestEngine::Validate(const EngineRequest& request) const {
  const auto check_ids = [this](const std::vector<TokenId>& ids, absl::string_view what) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= options_.vocabulary_size) {
        return absl::InvalidArgumentError(absl::StrCat(what, "[", i, "] is ", ids[i],
                                                       "; the vocabulary has ",
                                                       options_.vocabulary_size, " tokens"));
      }
    }
    return absl::OkStatus();
  };
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  if (request.n == 0) return absl::InvalidArgumentError("n is 0");
  if (request.max_new_tokens == 0) return absl::InvalidArgumentError("max_new_tokens is 0");
  if (request.prompt.size() + request.max_new_tokens > options_.context_length) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt's ", request.prompt.size(), " tokens and max_new_tokens ",
                     request.max_new_tokens, " exceed the context of ", options_.context_length));
  }
  if (absl::Status status = check_ids(request.prompt, "prompt"); !status.ok()) return status;
  if (request.emitted.size() > request.n || request.choice_finished.size() > request.n) {
    return absl::InvalidArgumentError(absl::StrCat("more emitted choices than n, ", request.n));
  }
  for (const std::vector<TokenId>& emitted : request.emitted) {
    if (emitted.size() > request.max_new_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("emitted has ", emitted.size(),
                                                     " tokens, more than max_new_tokens, ",
                                                     request.max_new_tokens));
    }
    if (absl::Status status = check_ids(emitted, "emitted"); !status.ok()) return status;
  }
  // The sampler writes to the logits of these.
  std::vector<TokenId> biased;
  for (const auto& [token, bias] : request.params.logit_bias) biased.push_back(token);
  if (absl::Status status = check_ids(biased, "logit_bias"); !status.ok()) return status;
  return check_ids(request.params.eos_token_ids, "eos_token_ids");
}

absl::Status RequestEngine::Submit(EngineRequest request, Micros now) {
  if (absl::Status status = Validate(request); !status.ok()) return status;
  auto [entry, is_new] = requests_.try_emplace(request.key, request.n, kNoTag);
  if (!is_new) return absl::AlreadyExistsError("the request's key is in use");

  const size_t finishes_before = output_.finishes.size();
  std::optional<SequenceTag> first;
  for (uint32_t choice = 0; choice < request.n; ++choice) {
    if (IsFinished(request, choice) || FinishIfComplete(request, choice)) continue;
    auto params = std::make_shared<SamplingParams>(request.params);
    params->choice = choice;
    if (choice > 0) params->prompt_logprobs.reset();  // choice 0 reports them
    SequenceSpec spec;
    spec.tag = NewTag();
    spec.tokens = request.prompt;
    const std::vector<TokenId>& emitted = EmittedOf(request, choice);
    spec.tokens.insert(spec.tokens.end(), emitted.begin(), emitted.end());
    spec.num_prompt_tokens = static_cast<uint32_t>(request.prompt.size());
    spec.max_output_tokens = request.max_new_tokens;
    spec.params = std::move(params);
    spec.priority = request.priority;
    spec.tenant = request.tenant;
    spec.cache_salt = request.cache_salt;
    // The request has begun to run when its first choice has.
    if (!first.has_value()) spec.queue_deadline = request.queue_deadline;
    spec.prompt_source = first;
    const SequenceTag tag = spec.tag;
    choices_[tag] = {request.key, request.attempt, choice};
    if (absl::Status status = scheduler_->Add(std::move(spec), now); !status.ok()) {
      // Only the first choice can be refused: the others are part of a request that is let in.
      free_tags_.push_back(tag);
      requests_.erase(entry);
      output_.finishes.resize(finishes_before);
      return status;
    }
    entry->second[choice] = tag;
    if (!first.has_value()) first = tag;
  }
  if (!first.has_value()) requests_.erase(entry);
  return absl::OkStatus();
}

bool RequestEngine::FinishIfComplete(const EngineRequest& request, uint32_t choice) {
  const std::vector<TokenId>& emitted = EmittedOf(request, choice);
  if (emitted.empty()) return false;
  const std::vector<TokenId>& stops = request.params.stop_token_ids;
  const bool stopped = std::binary_search(stops.begin(), stops.end(), emitted.back());
  if (!stopped && emitted.size() < request.max_new_tokens) return false;
  ChoiceFinish finish;
  finish.key = request.key;
  finish.attempt = request.attempt;
  finish.choice = choice;
  finish.reason = stopped ? FinishReason::kStop : FinishReason::kLength;
  if (stopped) finish.stop_token = emitted.back();
  finish.usage.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  finish.usage.output_tokens = static_cast<uint32_t>(emitted.size());
  output_.finishes.push_back(std::move(finish));
  return true;
}

SequenceTag RequestEngine::NewTag() {
  if (free_tags_.empty()) {
    choices_.emplace_back();
    return static_cast<SequenceTag>(choices_.size() - 1);
  }
  const SequenceTag tag = free_tags_.back();
  free_tags_.pop_back();
  return tag;
}

void RequestEngine::Cancel(RequestKey key, std::optional<uint32_t> choice,
                           std::optional<uint32_t> stop_index, Micros now) {
  const auto found = requests_.find(key);
  if (found == requests_.end()) return;
  const std::vector<SequenceTag> tags = found->second;
  for (uint32_t i = 0; i < tags.size(); ++i) {
    if (tags[i] == kNoTag || (choice.has_value() && *choice != i)) continue;
    scheduler_->Abort(tags[i], absl::CancelledError("cancelled"), stop_index, now, &events_);
  }
  TranslateEvents();
}

bool RequestEngine::Plan(Micros now, StepPlan* plan) {
  const bool planned = scheduler_->Plan(now, plan, &events_);
  TranslateEvents();
  return planned;
}

void RequestEngine::Settle(StepResult& result, Micros now) {
  output_.step = result.step;
  scheduler_->Settle(result, now, &events_);
  TranslateEvents();
}

void RequestEngine::TranslateEvents() {
  for (const SequenceTag tag : events_.preempted) {
    const Choice& choice = choices_[tag];
    output_.notices.push_back({choice.key, choice.attempt, choice.choice, NoticeKind::kPreempted,
                               "its KV blocks were needed by requests served before it"});
  }
  for (const SequenceEvents::Token& token : events_.tokens) {
    const Choice& choice = choices_[token.tag];
    output_.entries.push_back({choice.key, choice.attempt, choice.choice, token.index,
                               static_cast<uint32_t>(output_.tokens.size()), 1});
    output_.tokens.push_back(token.token);
  }
  output_tokens_ += events_.tokens.size();
  for (SequenceEvents::Logprobs& logprobs : events_.logprobs) {
    const Choice& choice = choices_[logprobs.tag];
    output_.logprobs.push_back({choice.key, choice.attempt, choice.choice, logprobs.index,
                                std::move(logprobs.output), std::move(logprobs.prompt)});
  }
  for (SequenceEvents::Finish& finish : events_.finishes) {
    const Choice choice = choices_[finish.tag];
    output_.finishes.push_back({choice.key, choice.attempt, choice.choice, finish.reason,
                                finish.stop_token, std::move(finish.status), finish.usage,
                                finish.timings});
    free_tags_.push_back(finish.tag);
    const auto request = requests_.find(choice.key);
    request->second[choice.choice] = kNoTag;
    const bool ended = std::all_of(request->second.begin(), request->second.end(),
                                   [](SequenceTag tag) { return tag == kNoTag; });
    if (ended) requests_.erase(request);
  }
  events_.Clear();
}

void RequestEngine::TakeOutput(EngineOutput* output) {
  output->Clear();
  std::swap(*output, output_);
}

EngineLoad RequestEngine::load() const {
  EngineLoad load;
  static_cast<SchedulerLoad&>(load) = scheduler_->load();
  load.output_tokens = output_tokens_;
  return load;
}

}  // namespace quire
