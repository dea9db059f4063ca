// tokenizer.json, tokenizer_config.json and special_tokens_map.json, with a text to tokenize. What
// is accepted encodes and decodes; text that arrives token by token is the text of all tokens at
// once; what is refused is refused with the file's name.
#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sections.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace quire {
namespace {

std::string Streamed(const std::shared_ptr<const Tokenizer>& tokenizer,
                     const std::vector<TokenId>& ids, size_t step) {
  const auto stream = StreamDetokenizer::Create(tokenizer, {}, {});
  QUIRE_FUZZ_CHECK(stream.ok(), stream.status().ToString());
  std::string text;
  for (size_t i = 0; i < ids.size(); i += step) {
    const auto update =
        (*stream)->Append(absl::MakeSpan(ids).subspan(i, std::min(step, ids.size() - i)));
    QUIRE_FUZZ_CHECK(update.ok() && IsUtf8(update->text), update.status().ToString());
    text += update->text;
  }
  const auto rest = (*stream)->Finish();
  QUIRE_FUZZ_CHECK(rest.ok() && IsUtf8(rest->text), rest.status().ToString());
  return text + rest->text;
}

}  // namespace

QUIRE_FUZZ_TARGET(tokenizer, input) {
  TextFiles files;
  std::string text = "the a<s>b \u00e9\u2581 'x' <new>";
  for (const auto& [name, content] : SplitSections(input)) {
    if (name == "text") {
      text = content;
    } else {
      files[name] = content;
    }
  }
  const auto tokenizer = Tokenizer::Load(files);
  if (!tokenizer.ok()) {
    CheckRefusal(tokenizer.status(),
                 {"tokenizer.json", "tokenizer_config.json: ", "special_tokens_map.json: "});
    return;
  }
  const uint32_t size = (*tokenizer)->vocabulary_size();
  const auto encoded = (*tokenizer)->Encode(text, true);
  QUIRE_FUZZ_CHECK(encoded.ok() || !encoded.status().message().empty(), "no reason");
  std::vector<TokenId> ids;
  if (encoded.ok())
    ids.assign(encoded->begin(), encoded->begin() + std::min<size_t>(encoded->size(), 64));
  for (const TokenId id : {0u, 1u, 200u, 261u, size - 1, size, 4294967295u}) ids.push_back(id);
  const auto decoded = (*tokenizer)->Decode(ids, true);
  QUIRE_FUZZ_CHECK(decoded.ok() && IsUtf8(*decoded), decoded.status().ToString());
  for (const size_t step : {size_t{1}, size_t{3}}) {
    const std::string streamed = Streamed(*tokenizer, ids, step);
    QUIRE_FUZZ_CHECK(streamed == *decoded,
                     "streamed '" + streamed + "', at once '" + *decoded + "'");
  }
  for (const TokenId id : ids) {
    const auto token = (*tokenizer)->IdToToken(id);
    QUIRE_FUZZ_CHECK(!token.has_value() || (id < size && IsUtf8(*token)), std::to_string(id));
  }
}

}  // namespace quire
