#include "tests/text/small_tokenizers.h"

#include <cstdio>
#include <utility>

namespace quire {
namespace {

using Json = nlohmann::json;

std::string Utf8(uint32_t point) {
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
}

// The spelling of each byte in byte-level vocabularies.
std::vector<std::string> ByteSpellings() {
  std::vector<std::string> spellings;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    spellings.push_back(Utf8(printable ? byte : next++));
  }
  return spellings;
}

Json AddedToken(uint32_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

Json Tokenizer(Json model, Json decoder, Json added_tokens) {
  return {{"version", "1.0"},      {"truncation", nullptr},        {"padding", nullptr},
          {"normalizer", nullptr}, {"pre_tokenizer", nullptr},     {"post_processor", nullptr},
          {"decoder", decoder},    {"added_tokens", added_tokens}, {"model", model}};
}

Json Bpe(const std::vector<std::string>& tokens) {
  Json vocab = Json::object();
  for (const std::string& token : tokens) vocab.emplace(token, vocab.size());
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}};
}

Json Replace(const std::string& pattern, const std::string& content) {
  return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

Json Sequence(std::vector<Json> decoders) {
  return {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

SmallTokenizer ByteLevel() {
  std::vector<std::string> tokens = ByteSpellings();
  const std::vector<std::string> bytes = tokens;
  // Pieces that end or begin inside a character, and plain ones.
  tokens.push_back(bytes[0xF0] + bytes[0x9F]);
  tokens.push_back(bytes[0x99] + bytes[0x82] + bytes['!']);
  tokens.push_back(bytes['a'] + bytes[0xC3]);
  tokens.push_back(bytes[' '] + bytes['t'] + bytes['h'] + bytes['e']);
  const auto size = static_cast<uint32_t>(tokens.size());
  return {"ByteLevel",
          Tokenizer(Bpe(tokens),
                    {{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", false},
                     {"use_regex", false}},
                    {AddedToken(size, "<s>", true), AddedToken(size + 1, "<t\xC3\xA9>", false)})};
}

std::vector<std::string> ByteFallbackTokens() {
  std::vector<std::string> tokens = {"<unk>", "<s>"};
  for (int byte = 0; byte < 256; ++byte) {
    char token[8];
    std::snprintf(token, sizeof token, "<0x%02X>", byte);
    tokens.emplace_back(token);
  }
  for (const char* token : {"\u2581", "\u2581\u2581", "\u2581the", "the", "a", "b", "ab", "\u00e9",
                            " ", ".", "!", "'", "'s", "n't", "\u2581.", "<0xZZ>", "<0x1>"}) {
    tokens.emplace_back(token);
  }
  return tokens;
}

SmallTokenizer ByteFallback(const std::string& name, Json decoder) {
  return {name, Tokenizer(Bpe(ByteFallbackTokens()), std::move(decoder),
                          {AddedToken(0, "<unk>", true), AddedToken(1, "<s>", true)})};
}

SmallTokenizer Unigram() {
  Json vocab = Json::array();
  for (const std::string& token : ByteFallbackTokens()) vocab.push_back({token, -1.0});
  return {
      "Unigram",
      Tokenizer({{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}, {"byte_fallback", false}},
                {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}},
                {AddedToken(1, "<s>", true)})};
}

}  // namespace

std::vector<SmallTokenizer> SmallTokenizers() {
  const Json fallback = {{"type", "ByteFallback"}};
  const Json fuse = {{"type", "Fuse"}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const Json metaspace = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}};
  return {
      ByteLevel(),
      ByteFallback("Llama2", Sequence({Replace("\u2581", " "), fallback, fuse, strip})),
      ByteFallback("Metaspace", Sequence({fallback, metaspace})),
      ByteFallback("StripPieces", Sequence({Replace("\u2581", " "), strip, fallback})),
      ByteFallback("ReplaceInText", Sequence({fuse, Replace("aab", "X"), Replace("\u2581", " ")})),
      ByteFallback("NoDecoder", nullptr),
      Unigram(),
  };
}

}  // namespace quire
