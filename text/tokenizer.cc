#include "text/tokenizer.h"

#include <cstring>
#include <utility>

#include "text/rust_call.h"

namespace quire {

Tokenizer::Tokenizer(RustHandle<QuireTextTokenizer> handle)
    : handle_(std::move(handle)),
      vocabulary_size_(quire_text_tokenizer_vocabulary_size(handle_.get())) {}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const TextFiles& files) {
  const std::vector<QuireTextFile> rust_files = ToRust(files);
  QuireTextTokenizer* handle = nullptr;
  RustOutput output;
  const absl::Status status = output.ToStatus(
      quire_text_tokenizer_load(rust_files.data(), rust_files.size(), &handle, output.sink()));
  if (!status.ok()) return status;
  return std::shared_ptr<const Tokenizer>(new Tokenizer(RustHandle<QuireTextTokenizer>(handle)));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens) const {
  RustOutput output;
  const absl::Status status = output.ToStatus(
      quire_text_tokenizer_encode(handle_.get(), ToRust(text), add_special_tokens, output.sink()));
  if (!status.ok()) return status;
  std::vector<TokenId> ids(output.bytes().size() / sizeof(TokenId));
  if (!ids.empty()) std::memcpy(ids.data(), output.bytes().data(), output.bytes().size());
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const TokenId> ids,
                                              bool skip_special_tokens, size_t max_bytes) const {
  RustOutput output;
  const absl::Status status = output.ToStatus(quire_text_tokenizer_decode(
      handle_.get(), ids.data(), ids.size(), skip_special_tokens, max_bytes, output.sink()));
  if (!status.ok()) return status;
  return std::move(output.bytes());
}

std::optional<std::string> Tokenizer::IdToToken(TokenId id) const {
  RustOutput output;
  if (quire_text_tokenizer_id_to_token(handle_.get(), id, output.sink()) != kQuireTextOk) {
    return std::nullopt;
  }
  return std::move(output.bytes());
}

std::optional<TokenId> Tokenizer::TokenToId(std::string_view token) const {
  RustOutput output;
  TokenId id = 0;
  if (quire_text_tokenizer_token_to_id(handle_.get(), ToRust(token), &id, output.sink()) !=
      kQuireTextOk) {
    return std::nullopt;
  }
  return id;
}

}  // namespace quire
