#ifndef QUIRE_TEXT_TOKENIZER_H_
#define QUIRE_TEXT_TOKENIZER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "text/rust_handle.h"

namespace quire {

using TokenId = uint32_t;

// Files of a model folder by name ("tokenizer.json"), as GetModelFiles brings them. Those that this
// library reads: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
// chat_template.jinja. Others are ignored.
using TextFiles = std::map<std::string, std::string>;

// Text to token ids and back, as Hugging Face's AutoTokenizer does it for a folder with a
// tokenizer.json.
//
// tokenizer.json decides, and tokenizer_config.json changes it as transformers 5.17 lets it: added
// tokens and named special tokens that tokenizer.json lacks are added, split_special_tokens counts,
// and clean_up_tokenization_spaces does on models other than BPE. add_bos_token and add_eos_token
// do not: what is added around a text is tokenizer.json's alone. Truncation and padding in
// tokenizer.json are ignored, as a plain call of a transformers tokenizer ignores them.
//
// Immutable and thread safe. Costs some hundred bytes a vocabulary entry: load once, share.
class Tokenizer {
 public:
  // NOT_FOUND without tokenizer.json; INVALID_ARGUMENT, naming the file and the reason, for a file
  // that cannot be used. So also for a decoder whose text cannot be streamed (text/detokenizer.h):
  // supported are ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip of beginnings, sequences
  // of them, and none.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const TextFiles& files);

  // INVALID_ARGUMENT, with the offset, where `text` is not UTF-8. With `add_special_tokens` the
  // post-processor adds what the model expects around a text (a BOS, say). Special tokens written
  // out in the text become their ids either way, as with transformers.
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool add_special_tokens) const;

  // Valid UTF-8: bytes that are not become U+FFFD. Ids without a token give no text, as with
  // transformers: a model's vocabulary is often padded past its tokenizer's.
  // RESOURCE_EXHAUSTED, as soon as that is known, for a text of more than `max_bytes`.
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids, bool skip_special_tokens,
                                     size_t max_bytes = SIZE_MAX) const;

  // The token as the vocabulary spells it (byte-level tokenizers write a space as "Ġ"). Empty for
  // an id without a token.
  std::optional<std::string> IdToToken(TokenId id) const;
  std::optional<TokenId> TokenToId(std::string_view token) const;

  // One more than the largest id that has a token.
  uint32_t vocabulary_size() const { return vocabulary_size_; }

 private:
  friend class StreamDetokenizer;
  explicit Tokenizer(RustHandle<QuireTextTokenizer> handle);

  RustHandle<QuireTextTokenizer> handle_;
  uint32_t vocabulary_size_;
};

}  // namespace quire

#endif  // QUIRE_TEXT_TOKENIZER_H_
