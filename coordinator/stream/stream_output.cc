#include "coordinator/stream/stream_output.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

// Tokens of one Delta. Keeps messages with 20 alternatives a token well below the limit.
constexpr uint32_t kMaxTokensPerDelta = 4096;

}  // namespace

size_t StreamOutput::num_tokens() const {
  size_t num_tokens = 0;
  for (const ChoiceOutput& choice : choices) num_tokens += choice.num_tokens();
  return num_tokens;
}

bool StreamOutput::is_complete() const {
  return std::all_of(choices.begin(), choices.end(),
                     [](const ChoiceOutput& choice) { return choice.finished.has_value(); });
}

bool StreamOutput::IsBehind(const ResumeTokens& resume) const {
  if (ended.has_value()) return false;
  for (size_t i = 0; i < resume.size(); ++i) {
    if (resume[i].empty()) continue;
    if (choices.empty()) return true;
    if (i >= choices.size()) break;
    const std::optional<v1::Finished>& finished = choices[i].finished;
    // An aborted choice says nothing of the client's tokens; the end of the request will.
    const bool has_ended = finished.has_value() && finished->reason() != v1::Finished::ABORTED;
    if (resume[i].size() > choices[i].num_tokens() && !has_ended) return true;
  }
  return false;
}

absl::Status StreamOutput::CheckResume(const ResumeTokens& resume) const {
  for (size_t i = 0; i < resume.size() && i < choices.size(); ++i) {
    const std::vector<uint32_t>& theirs = resume[i];
    const std::vector<uint32_t>& ours = choices[i].ids();
    const std::string field = absl::StrCat("resume.choices[", i, "].emitted_token_ids");
    const size_t common = std::min(theirs.size(), ours.size());
    const size_t same =
        std::mismatch(theirs.begin(), theirs.begin() + common, ours.begin()).first - theirs.begin();
    if (same < common) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat(field, "[", same, "] is ", theirs[same],
                                                  "; the request emitted ", ours[same], " there")),
          field);
    }
    if (theirs.size() <= ours.size()) continue;
    if (ended.has_value() && !ended->ok()) return *ended;
    return WithField(
        absl::InvalidArgumentError(absl::StrCat(field, " has ", theirs.size(),
                                                " tokens; the request ended after ", ours.size())),
        field);
  }
  return absl::OkStatus();
}

StreamOutput::Taken StreamOutput::Take(StreamCursor* cursor, v1::GenerateEvent* event,
                                       absl::Status* status) const {
  event->Clear();
  if (!accepted.has_value()) {
    if (!ended.has_value()) return Taken::kNothing;
    *status = *ended;
    return Taken::kEnd;
  }
  if (!cursor->resume_checked) {
    if (IsBehind(cursor->resume)) return Taken::kNothing;
    if (*status = CheckResume(cursor->resume); !status->ok()) return Taken::kEnd;
    cursor->resume_checked = true;
    cursor->next_index.assign(choices.size(), 0);
    cursor->finish_sent.assign(choices.size(), false);
    for (size_t i = 0; i < cursor->resume.size() && i < choices.size(); ++i) {
      cursor->next_index[i] = static_cast<uint32_t>(cursor->resume[i].size());
    }
    cursor->resume.clear();
  }
  if (!cursor->accepted_sent) {
    cursor->accepted_sent = true;
    *event->mutable_accepted() = *accepted;
    return Taken::kEvent;
  }
  if (cursor->notices_sent < notices.size()) {
    *event->mutable_notice() = notices[cursor->notices_sent++];
    return Taken::kEvent;
  }
  if (TakePromptLogprobs(cursor, event) || TakeDelta(cursor, event) || TakeFinish(cursor, event)) {
    return Taken::kEvent;
  }
  if (!ended.has_value()) return Taken::kNothing;
  *status = *ended;
  return Taken::kEnd;
}

bool StreamOutput::TakePromptLogprobs(StreamCursor* cursor, v1::GenerateEvent* event) const {
  // A client that has tokens of choice 0 had these before them.
  if (choices.empty() || cursor->next_index[0] > 0) return false;
  const ChoiceOutput& choice = choices[0];
  size_t& next = cursor->prompt_logprobs_sent;
  if (next >= choice.num_prompt_logprobs()) return false;
  const size_t end = std::min<size_t>(choice.num_prompt_logprobs(), next + kMaxTokensPerDelta);
  choice.CopyPromptLogprobs(next, end, event->mutable_delta());
  next = end;
  return true;
}

bool StreamOutput::TakeDelta(StreamCursor* cursor, v1::GenerateEvent* event) const {
  for (uint32_t i = 0; i < choices.size(); ++i) {
    const uint32_t number = (cursor->last_choice + 1 + i) % choices.size();
    const ChoiceOutput& choice = choices[number];
    uint32_t& next = cursor->next_index[number];
    if (next >= choice.num_sendable()) continue;
    const uint32_t end =
        std::min({choice.num_sendable(), next + kMaxTokensPerDelta, choice.DeltaEnd(next)});
    v1::Delta& delta = *event->mutable_delta();
    delta.set_choice(number);
    choice.CopyTo(next, end, &delta);
    next = end;
    cursor->last_choice = number;
    return true;
  }
  return false;
}

bool StreamOutput::TakeFinish(StreamCursor* cursor, v1::GenerateEvent* event) const {
  for (uint32_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].finished.has_value() || cursor->finish_sent[i]) continue;
    cursor->finish_sent[i] = true;
    *event->mutable_finished() = *choices[i].finished;
    return true;
  }
  return false;
}

}  // namespace quire
