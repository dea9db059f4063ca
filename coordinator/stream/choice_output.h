#ifndef QUIRE_COORDINATOR_STREAM_CHOICE_OUTPUT_H_
#define QUIRE_COORDINATOR_STREAM_CHOICE_OUTPUT_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <quire/v1/inference.pb.h>
#include <quire/worker/v1/worker.pb.h>
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "text/detokenizer.h"

namespace quire {

// What one choice of a request has put out so far: this is where a token becomes text. Text is kept
// with the index of the token that brought it, so that any client can be sent any part. Not thread
// safe.
class ChoiceOutput {
 public:
  // The choices of a request, parameters.n() of them. Without a tokenizer there is no text. Takes
  // as long as it takes to decode the prompt.
  static absl::StatusOr<std::vector<ChoiceOutput>> CreateAll(
      const std::shared_ptr<const Tokenizer>& tokenizer, absl::Span<const uint32_t> prompt,
      const v1::ResolvedParameters& parameters);

  // Takes the next tokens. True: they completed a stop string. The tokens after it are dropped
  // then, and further ones ignored.
  absl::StatusOr<bool> Append(absl::Span<const uint32_t> ids);

  // The choice has ended: releases the text that was held back, and what made text of tokens. True:
  // that text completed a stop string. With `aborted` none is looked for, since the tokens that did
  // not come could have made other text of the bytes that waited.
  absl::StatusOr<bool> Flush(bool aborted);

  uint32_t num_tokens() const { return static_cast<uint32_t>(ids_.size()); }
  const std::vector<uint32_t>& ids() const { return ids_; }
  // Whether a stop string ended it, and which.
  bool stopped() const { return matched_stop_.has_value(); }
  const std::string& matched_stop() const { return *matched_stop_; }

  // Tokens [begin, end) with their text and log-probabilities, into `delta`. REQUIRES: end is at
  // most DeltaEnd(begin), so that each token or none has its log-probability.
  void CopyTo(uint32_t begin, uint32_t end, v1::Delta* delta) const;
  // Where a Delta from `begin` on must end: those whose log-probabilities were skipped come apart.
  uint32_t DeltaEnd(uint32_t begin) const {
    return begin < num_skipped_logprobs_ ? num_skipped_logprobs_ : num_tokens();
  }
  // Tokens that a Delta can be sent for: none before the prompt's log-probabilities.
  uint32_t num_sendable() const {
    return finished.has_value() || has_prompt_logprobs() ? num_tokens() : 0;
  }
  // The text that Flush released.
  std::string tail() const { return text_.substr(TextEnd(num_tokens())); }

  // Those of the tokens so far will not come: an earlier attempt delivered them. A client without
  // these tokens gets them without.
  void SkipLogprobs() {
    if (!wants_logprobs_) return;
    num_skipped_logprobs_ = num_tokens();
    logprobs_.resize(ids_.size());
  }
  // Whether log-probabilities are wanted that `logprobs`, which may be null, does not bring
  // together with tokens up to index `end`; or of the prompt, which come before the first token.
  bool LacksLogprobs(size_t end, const worker::v1::EntryLogprobs* logprobs) const;
  // Log-probabilities of tokens from `first_index` on; those known already are skipped.
  void AddLogprobs(uint32_t first_index,
                   const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs);
  // Those of prompt tokens from `first_position` on; those known already are skipped. They are sent
  // before the first token.
  void AddPromptLogprobs(uint32_t first_position,
                         const google::protobuf::RepeatedPtrField<v1::TokenLogprobs>& logprobs);
  size_t num_prompt_logprobs() const { return prompt_logprobs_.size(); }
  // The entries [begin, end) of prompt_logprobs, into `delta`.
  void CopyPromptLogprobs(size_t begin, size_t end, v1::Delta* delta) const;

  size_t num_bytes() const;

  // The end, once it is known.
  std::optional<v1::Finished> finished;
  // When the last token came (steady, microseconds).
  int64_t last_token_at = -1;

 private:
  ChoiceOutput() = default;
  bool has_prompt_logprobs() const {
    return prompt_logprobs_.size() >= num_wanted_prompt_logprobs_;
  }
  size_t TextEnd(uint32_t num_tokens) const {
    return num_tokens == 0 ? 0 : text_ends_[num_tokens - 1];
  }
  void Stop(const StreamDetokenizer::StopMatch& match);
  void ReleaseDetokenizer();

  std::unique_ptr<StreamDetokenizer> detokenizer_;  // null without a tokenizer and at the end
  std::vector<std::string> stop_strings_;
  std::vector<uint32_t> ids_;
  std::string text_;
  std::vector<uint32_t> text_ends_;  // bytes of text_ after each token
  std::optional<std::string> matched_stop_;
  bool wants_logprobs_ = false;
  uint32_t num_skipped_logprobs_ = 0;  // of logprobs_, which are not known
  size_t num_wanted_prompt_logprobs_ = 0;
  std::vector<v1::TokenLogprobs> logprobs_;         // of the tokens, where they are wanted
  std::vector<v1::TokenLogprobs> prompt_logprobs_;  // entry i is about prompt position i + 1
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_CHOICE_OUTPUT_H_
