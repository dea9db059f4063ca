#include "text/detokenizer.h"

#include <utility>

#include "text/rust_call.h"

namespace quire {

StreamDetokenizer::StreamDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                     RustHandle<QuireTextStream> stream, StopMatcher matcher,
                                     bool include_stop_in_output)
    : tokenizer_(std::move(tokenizer)),
      stream_(std::move(stream)),
      matcher_(std::move(matcher)),
      include_stop_in_output_(include_stop_in_output) {}

absl::StatusOr<std::unique_ptr<StreamDetokenizer>> StreamDetokenizer::Create(
    std::shared_ptr<const Tokenizer> tokenizer, absl::Span<const TokenId> prompt_ids,
    Options options) {
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(options.stop_strings);
  if (!matcher.ok()) return matcher.status();
  QuireTextStream* stream = nullptr;
  RustOutput output;
  const absl::Status status = output.ToStatus(quire_text_stream_new(
      tokenizer->handle_.get(), prompt_ids.data(), prompt_ids.size(), &stream, output.sink()));
  if (!status.ok()) return status;
  return std::unique_ptr<StreamDetokenizer>(
      new StreamDetokenizer(std::move(tokenizer), RustHandle<QuireTextStream>(stream),
                            *std::move(matcher), options.include_stop_in_output));
}

absl::StatusOr<std::unique_ptr<StreamDetokenizer>> StreamDetokenizer::Clone() const {
  QuireTextStream* stream = nullptr;
  RustOutput output;
  const absl::Status status =
      output.ToStatus(quire_text_stream_clone(stream_.get(), &stream, output.sink()));
  if (!status.ok()) return status;
  std::unique_ptr<StreamDetokenizer> clone(new StreamDetokenizer(
      tokenizer_, RustHandle<QuireTextStream>(stream), matcher_, include_stop_in_output_));
  clone->held_ = held_;
  clone->num_tokens_ = num_tokens_;
  clone->stopped_ = stopped_;
  return clone;
}

absl::StatusOr<StreamDetokenizer::Update> StreamDetokenizer::Append(absl::Span<const TokenId> ids) {
  Update update;
  for (const TokenId id : ids) {
    if (stopped_) break;
    RustOutput output;
    const absl::Status status =
        output.ToStatus(quire_text_stream_push(stream_.get(), id, output.sink()));
    if (!status.ok()) return status;
    ++num_tokens_;
    Take(output.bytes(), update);
  }
  return update;
}

absl::StatusOr<StreamDetokenizer::Update> StreamDetokenizer::Finish() {
  Update update;
  if (stopped_) return update;
  RustOutput output;
  const absl::Status status =
      output.ToStatus(quire_text_stream_finish(stream_.get(), output.sink()));
  if (!status.ok()) return status;
  Take(output.bytes(), update);
  update.text += held_;
  held_.clear();
  return update;
}

void StreamDetokenizer::Take(std::string_view text, Update& update) {
  const size_t num_held_before = held_.size();
  held_ += text;
  if (const std::optional<StopMatcher::Match> match = matcher_.Append(text)) {
    stopped_ = true;
    update.stop = StopMatch{match->index, num_tokens_};
    const size_t end = num_held_before + match->end;
    update.text.append(held_, 0, include_stop_in_output_ ? end : end - match->num_bytes);
    held_.clear();
    return;
  }
  const size_t num_certain = held_.size() - matcher_.num_held_bytes();
  update.text.append(held_, 0, num_certain);
  held_.erase(0, num_certain);
}

}  // namespace quire
