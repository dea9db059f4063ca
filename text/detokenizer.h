#ifndef QUIRE_TEXT_DETOKENIZER_H_
#define QUIRE_TEXT_DETOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "text/rust_handle.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace quire {

// The text of one choice's output while its tokens arrive.
//
// The text is decode(prompt + output) without what it has in common, at its beginning, with
// decode(prompt); special tokens are skipped. (In common: usually all of decode(prompt). When the
// prompt ends inside a character that the output completes, the character belongs to the output.)
//
// What Append has returned after n ids is a pure function of the prompt and the first n ids,
// however they were grouped: the longest prefix of that text which
//   - no further id can change. So the bytes of an unfinished UTF-8 character wait; bytes that no
//     longer can become one are U+FFFD as in decode(). A run of SentencePiece byte tokens (<0xE4>)
//     waits until it ends, since decode() turns a run with any wrong byte into U+FFFD as a whole;
//   - does not end in what may be the beginning of a stop string.
// Finish returns the rest, so that all text together equals the whole text, or its part up to the
// stop string.
//
// To resume an interrupted output, Append the emitted ids to a new object and drop the text.
//
// Each id costs amortised constant time, the prompt once. Not thread safe.
class StreamDetokenizer {
 public:
  struct Options {
    std::vector<std::string> stop_strings;
    bool include_stop_in_output = false;
  };

  // The errors of StopMatcher::Create.
  static absl::StatusOr<std::unique_ptr<StreamDetokenizer>> Create(
      std::shared_ptr<const Tokenizer> tokenizer, absl::Span<const TokenId> prompt_ids,
      Options options);

  // Another detokenizer at the same place. For several outputs of one prompt: the prompt is decoded
  // once.
  absl::StatusOr<std::unique_ptr<StreamDetokenizer>> Clone() const;

  // The stop string that ended the output.
  struct StopMatch {
    size_t stop_string;   // index in Options::stop_strings
    uint32_t num_tokens;  // ids that count as output: those up to the one that completed the string
  };
  struct Update {
    std::string text;  // valid UTF-8; comes after all text returned before
    std::optional<StopMatch> stop;
  };

  // More output ids. `stop` is set once, by the call in which the first match happens (the match
  // that ends first; then the longest; then the first listed). Ids after the one that completed it,
  // in that call and in later ones, are ignored.
  absl::StatusOr<Update> Append(absl::Span<const TokenId> ids);

  // The output has ended: the text held back. It may still complete a stop string, where waiting
  // bytes become text only now; then all ids count. Nothing may be appended afterwards. Empty after
  // a stop.
  absl::StatusOr<Update> Finish();

  // Output ids taken so far, without those ignored.
  uint32_t num_tokens() const { return num_tokens_; }
  bool stopped() const { return stopped_; }

 private:
  StreamDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, RustHandle<QuireTextStream> stream,
                    StopMatcher matcher, bool include_stop_in_output);
  // Looks for stop strings in the text that the last id completed, and adds to `update` what need
  // not be held back.
  void Take(std::string_view text, Update& update);

  std::shared_ptr<const Tokenizer> tokenizer_;
  RustHandle<QuireTextStream> stream_;
  StopMatcher matcher_;
  bool include_stop_in_output_;
  std::string held_;  // decoded, but possibly the beginning of a stop string
  uint32_t num_tokens_ = 0;
  bool stopped_ = false;
};

}  // namespace quire

#endif  // QUIRE_TEXT_DETOKENIZER_H_
