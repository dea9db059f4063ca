#include "coordinator/stream/choice_output.h"

#include <algorithm>
#include <utility>

namespace quire {

absl::StatusOr<std::vector<ChoiceOutput>> ChoiceOutput::CreateAll(
    const std::shared_ptr<const Tokenizer>& tokenizer, absl::Span<const uint32_t> prompt,
    const v1::ResolvedParameters& parameters) {
  StreamDetokenizer::Options options;
  options.stop_strings.assign(parameters.stop_strings().begin(), parameters.stop_strings().end());
  options.include_stop_in_output = parameters.include_stop_in_output();
  std::unique_ptr<StreamDetokenizer> start;
  if (tokenizer != nullptr) {
    auto created = StreamDetokenizer::Create(tokenizer, prompt, options);
    if (!created.ok()) return created.status();
    start = *std::move(created);
  }
  std::vector<ChoiceOutput> outputs;
  for (uint32_t i = 0; i < parameters.n(); ++i) {
    ChoiceOutput output;
    output.wants_logprobs_ = parameters.has_logprobs();
    // They come with choice 0, for the prompt tokens after the first.
    if (parameters.has_prompt_logprobs() && i == 0) {
      output.num_wanted_prompt_logprobs_ = prompt.size() - 1;
    }
    if (start != nullptr) {
      auto clone = start->Clone();
      if (!clone.ok()) return clone.status();
      output.detokenizer_ = *std::move(clone);
      output.stop_strings_ = options.stop_strings;
    }
    outputs.push_back(std::move(output));
  }
  return outputs;
}

void ChoiceOutput::ReleaseDetokenizer() {
  detokenizer_.reset();
  std::vector<std::string>().swap(stop_strings_);
}

void ChoiceOutput::Stop(const StreamDetokenizer::StopMatch& match) {
  matched_stop_ = stop_strings_[match.stop_string];
  ReleaseDetokenizer();
  ids_.resize(std::min<size_t>(ids_.size(), match.num_tokens));
  text_ends_.resize(ids_.size());
  if (logprobs_.size() > ids_.size()) logprobs_.resize(ids_.size());
}

absl::StatusOr<bool> ChoiceOutput::Append(absl::Span<const uint32_t> ids) {
  if (stopped()) return false;
  for (const uint32_t id : ids) {
    ids_.push_back(id);
    std::optional<StreamDetokenizer::StopMatch> stop;
    if (detokenizer_ != nullptr) {
      auto update = detokenizer_->Append(absl::MakeSpan(&id, 1));
      if (!update.ok()) return update.status();
      text_ += update->text;
      stop = update->stop;
    }
    text_ends_.push_back(static_cast<uint32_t>(text_.size()));
    if (stop.has_value()) {
      Stop(*stop);
      if (!text_ends_.empty()) text_ends_.back() = static_cast<uint32_t>(text_.size());
      return true;
    }
  }
  return false;
}

absl::StatusOr<bool> ChoiceOutput::Flush(bool aborted) {
  if (detokenizer_ == nullptr || stopped()) return false;
  auto update = detokenizer_->Finish();
  if (update.ok() && update->stop.has_value() && !aborted) Stop(*update->stop);
  ReleaseDetokenizer();
  if (!update.ok()) return update.status();
  text_ += update->text;
  return stopped();
}

size_t ChoiceOutput::num_bytes() const {
  size_t bytes = 8 * ids_.size() + text_.size() + matched_stop_.value_or("").size();
  for (const auto* entries : {&logprobs_, &prompt_logprobs_}) {
    for (const v1::TokenLogprobs& entry : *entries) bytes += entry.SpaceUsedLong();
  }
  return bytes;
}

void ChoiceOutput::CopyTo(uint32_t begin, uint32_t end, v1::Delta* delta) const {
  delta->set_first_index(begin);
  delta->mutable_token_ids()->Add(ids_.begin() + begin, ids_.begin() + end);
  delta->set_text(text_.substr(TextEnd(begin), TextEnd(end) - TextEnd(begin)));
  if (!wants_logprobs_ || begin < num_skipped_logprobs_) return;
  for (uint32_t i = begin; i < std::min<size_t>(end, logprobs_.size()); ++i) {
    *delta->add_logprobs() = logprobs_[i];
  }
}

bool ChoiceOutput::LacksLogprobs(size_t end, const worker::v1::EntryLogprobs* logprobs) const {
  if (!has_prompt_logprobs()) return true;
  if (!wants_logprobs_ || end <= ids_.size()) return false;
  return logprobs == nullptr || logprobs->first_index() > ids_.size() ||
         end > size_t{logprobs->first_index()} + logprobs->output_size();
}

void ChoiceOutput::AddLogprobs(
    uint32_t first_index, const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs) {
  for (int i = 0; i < logprobs.size(); ++i) {
    const bool is_next = first_index + i == logprobs_.size();
    if (wants_logprobs_ && is_next && logprobs_.size() < ids_.size()) {
      logprobs_.push_back(logprobs.Get(i));
    }
  }
}

void ChoiceOutput::AddPromptLogprobs(
    uint32_t first_position,
    const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs) {
  // A worker of an older version names no position and sends all at once.
  first_position = std::max(first_position, 1u);
  for (int i = 0; i < logprobs.size(); ++i) {
    const bool is_next = first_position + i == prompt_logprobs_.size() + 1;
    if (is_next && prompt_logprobs_.size() < num_wanted_prompt_logprobs_) {
      prompt_logprobs_.push_back(logprobs.Get(i));
    }
  }
}

void ChoiceOutput::CopyPromptLogprobs(size_t begin, size_t end, v1::Delta* delta) const {
  delta->set_first_prompt_position(static_cast<uint32_t>(begin + 1));
  delta->mutable_prompt_logprobs()->Add(prompt_logprobs_.begin() + begin,
                                        prompt_logprobs_.begin() + end);
}

}  // namespace quire
