#include "clients/cpp/stream_progress.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {

StreamProgress::StreamProgress(const v1::Resume& resume) {
  for (const v1::Resume::Choice& had : resume.choices()) {
    Choice& choice = choices_.emplace_back();
    choice.token_ids.assign(had.emitted_token_ids().begin(), had.emitted_token_ids().end());
    choice.num_given = choice.token_ids.size();
  }
}

void StreamProgress::BeginConnection() {
  for (Choice& choice : choices_) {
    choice.next_index.reset();
    choice.aborted.reset();
  }
}

absl::StatusOr<bool> StreamProgress::Accept(v1::GenerateEvent* event) {
  switch (event->event_case()) {
    case v1::GenerateEvent::kAccepted:
      return AcceptAccepted(event->accepted());
    case v1::GenerateEvent::kDelta:
      return AcceptDelta(event->mutable_delta());
    case v1::GenerateEvent::kFinished:
      return AcceptFinished(event->mutable_finished());
    case v1::GenerateEvent::kNotice:
      return true;
    case v1::GenerateEvent::EVENT_NOT_SET:
      return false;  // of a newer server
  }
  return false;
}

absl::StatusOr<bool> StreamProgress::AcceptAccepted(const v1::Accepted& accepted) {
  if (!accepted_.has_value()) {
    accepted_ = accepted;
    choices_.resize(std::max<size_t>(choices_.size(), std::max(accepted.parameters().n(), 1u)));
    return true;
  }
  // Only equal numerics promise the same tokens.
  if (accepted.numerics_id() != accepted_->numerics_id()) {
    return absl::DataLossError(
        absl::StrCat("the stream would go on with other numerics: ", accepted_->numerics_id(),
                     " before, now ", accepted.numerics_id()));
  }
  return false;
}

absl::StatusOr<StreamProgress::Choice*> StreamProgress::FindChoice(uint32_t index) {
  if (!accepted_.has_value()) return absl::DataLossError("the first event was not Accepted");
  if (index >= choices_.size()) {
    return absl::DataLossError(
        absl::StrCat("an event for choice ", index, " of ", choices_.size()));
  }
  return &choices_[index];
}

absl::StatusOr<bool> StreamProgress::AcceptDelta(v1::Delta* delta) {
  absl::StatusOr<Choice*> found = FindChoice(delta->choice());
  if (!found.ok()) return found.status();
  Choice& choice = **found;
  const size_t first = delta->first_index();
  const size_t had = choice.token_ids.size();
  if (!choice.next_index.has_value()) {
    // Text can be told apart only at the two places where its position is known.
    if (first != had && first != choice.num_given) {
      return absl::DataLossError(absl::StrCat("choice ", delta->choice(), " goes on at token ",
                                              first, ", expected ", had));
    }
    choice.text_position = first == had ? choice.num_text_bytes : 0;
  } else if (first != *choice.next_index) {
    return absl::DataLossError(absl::StrCat("choice ", delta->choice(), " has token ", first,
                                            " where ", *choice.next_index, " was due"));
  }
  const size_t end = first + delta->token_ids_size();
  choice.next_index = end;

  const size_t num_repeated = std::min(end, had) - first;
  for (size_t i = 0; i < num_repeated; ++i) {
    if (delta->token_ids(i) != choice.token_ids[first + i]) {
      return absl::DataLossError(absl::StrCat("token ", first + i, " of choice ", delta->choice(),
                                              " was ", choice.token_ids[first + i], " and is now ",
                                              delta->token_ids(i)));
    }
  }
  choice.token_ids.insert(choice.token_ids.end(), delta->token_ids().begin() + num_repeated,
                          delta->token_ids().end());
  num_new_tokens_ += delta->token_ids_size() - num_repeated;

  delta->set_first_index(first + num_repeated);
  delta->mutable_token_ids()->erase(delta->token_ids().begin(),
                                    delta->token_ids().begin() + num_repeated);
  auto* logprobs = delta->mutable_logprobs();
  logprobs->DeleteSubrange(0, std::min<int>(num_repeated, logprobs->size()));
  if (absl::Status s = CutPromptLogprobs(&choice, delta); !s.ok()) return s;
  CutText(&choice, delta->mutable_text());
  return delta->token_ids_size() > 0 || !delta->text().empty() || delta->prompt_logprobs_size() > 0;
}

absl::Status StreamProgress::CutPromptLogprobs(Choice* choice, v1::Delta* delta) {
  if (delta->prompt_logprobs_size() == 0) return absl::OkStatus();
  // A server of an older version names no position and sends all at once.
  const size_t first = std::max(delta->first_prompt_position(), 1u);
  const size_t due = choice->num_prompt_logprobs + 1;  // the first token of a prompt has none
  if (first > due) {
    return absl::DataLossError(
        absl::StrCat("prompt_logprobs start at position ", first, " where ", due, " was due"));
  }
  const int num_repeated = std::min<int>(due - first, delta->prompt_logprobs_size());
  delta->mutable_prompt_logprobs()->DeleteSubrange(0, num_repeated);
  delta->set_first_prompt_position(static_cast<uint32_t>(first + num_repeated));
  choice->num_prompt_logprobs += delta->prompt_logprobs_size();
  return absl::OkStatus();
}

absl::StatusOr<bool> StreamProgress::AcceptFinished(v1::Finished* finished) {
  absl::StatusOr<Choice*> found = FindChoice(finished->choice());
  if (!found.ok()) return found.status();
  Choice& choice = **found;
  if (choice.finished) return false;
  // Without a delta before it, nothing was left to send: its text follows what was delivered.
  if (!choice.next_index.has_value()) choice.text_position = choice.num_text_bytes;
  if (choice.next_index.value_or(choice.token_ids.size()) != choice.token_ids.size()) {
    return absl::DataLossError(absl::StrCat("choice ", finished->choice(), " ended after ",
                                            *choice.next_index, " tokens and had ",
                                            choice.token_ids.size(), " before"));
  }
  if (finished->reason() == v1::Finished::ABORTED) {
    choice.aborted = *finished;
    return false;
  }
  CutText(&choice, finished->mutable_text());
  choice.finished = true;
  return true;
}

void StreamProgress::CutText(Choice* choice, std::string* text) {
  const size_t begin = choice->text_position;
  choice->text_position += text->size();
  text->erase(0, std::min(text->size(), choice->num_text_bytes - begin));
  choice->num_text_bytes = std::max(choice->num_text_bytes, choice->text_position);
}

v1::Resume StreamProgress::resume() const {
  v1::Resume resume;
  for (const Choice& choice : choices_) {
    resume.add_choices()->mutable_emitted_token_ids()->Assign(choice.token_ids.begin(),
                                                              choice.token_ids.end());
  }
  if (accepted_.has_value()) {
    resume.set_numerics_id(accepted_->numerics_id());
    resume.set_max_new_tokens(accepted_->parameters().max_new_tokens());
  }
  return resume;
}

bool StreamProgress::complete() const {
  return accepted_.has_value() && std::all_of(choices_.begin(), choices_.end(),
                                              [](const Choice& choice) { return choice.finished; });
}

std::vector<v1::Finished> StreamProgress::TakeAborted() {
  std::vector<v1::Finished> aborted;
  for (Choice& choice : choices_) {
    if (choice.finished || !choice.aborted.has_value()) continue;
    aborted.push_back(*std::exchange(choice.aborted, std::nullopt));
  }
  return aborted;
}

}  // namespace quire
