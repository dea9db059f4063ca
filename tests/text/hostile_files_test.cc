// Files and templates that are broken or mean harm: an error that names the place, never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "tests/text/small_tokenizers.h"
#include "tests/text/text_files.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kConfig[] = R"({
  "added_tokens_decoder": {"0": {"content": "<unk>", "lstrip": false, "rstrip": false,
    "single_word": false, "normalized": false, "special": true}, "900": {"content": "<new>"}},
  "bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "special": true},
  "extra_special_tokens": ["<x>", {"content": "<y>"}], "image_token": "<image>",
  "clean_up_tokenization_spaces": true, "split_special_tokens": false,
  "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"},
                    {"name": "tool_use", "template": "{{ tools | tojson }}"}]})";
constexpr char kSpecialTokensMap[] = R"({"pad_token": "<pad>", "unk_token": {"content": "<unk>"},
  "additional_special_tokens": ["<z>"]})";
constexpr char kTemplate[] = R"({{- bos_token }}
{%- macro part(content) %}{% if content is string %}{{ content | trim }}{% endif %}{% endmacro %}
{%- set ns = namespace(last=0) %}
{%- for message in messages[::-1] if message.role in ['user', 'assistant'] %}
  {%- if loop.index0 % 2 == 1 %}{% set ns.last = ns.last + loop.index %}{% endif %}
  {{- '<|' ~ message['role'].upper() ~ '|>' + part(message.content) }}
  {%- if message.tool_calls is defined %}{{ message.tool_calls | tojson(indent=2) }}{% endif %}
  {%- generation %}{{ message.content.split('x')[-1] }}{% endgeneration %}
{%- endfor %}
{%- if not tools %}{{ raise_exception('no tools but ' + ns.last | string) }}{% endif %}
{%- if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %})";
constexpr char kMessages[] = R"([{"role": "user", "content": " hi x "},
  {"role": "assistant", "content": "yes", "tool_calls": [{"name": "f", "arguments": {"a": 1.5}}]}])";
constexpr char kTools[] = R"([{"name": "f"}])";

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  uint32_t Below(size_t n) { return static_cast<uint32_t>(random_() % n); }

  // Some bytes changed, removed, repeated, or the end cut.
  std::string Bytes(std::string text) {
    static constexpr std::string_view kInteresting =
        "{}[]()%\"'\\,:-|.~=<> \n\0\x7F\xC3\xFF"
        "09ae";
    for (uint32_t i = 0; i <= Below(3) && !text.empty(); ++i) {
      const size_t at = Below(text.size());
      const size_t count = std::min<size_t>(1 + Below(12), text.size() - at);
      switch (Below(5)) {
        case 0:
          text[at] = kInteresting[Below(kInteresting.size())];
          break;
        case 1:
          text.erase(at, count);
          break;
        case 2:
          text.insert(at, text.substr(Below(text.size()), count));
          break;
        case 3:
          text.insert(at, 1, kInteresting[Below(kInteresting.size())]);
          break;
        case 4:
          if (Below(4) == 0) text.resize(at);
          break;
      }
    }
    return text;
  }

  // One value anywhere in `json` replaced, removed or moved.
  Json Value(Json json) {
    Json* node = &json;
    while (node->is_structured() && !node->empty() && Below(5) != 0) {
      auto child = node->begin();
      std::advance(child, Below(std::min<size_t>(node->size(), 40)));
      if (Below(12) == 0) {
        node->erase(child);
        return json;
      }
      node = &*child;
    }
    switch (Below(12)) {
      case 0:
        *node = nullptr;
        break;
      case 1:
        *node = -1;
        break;
      case 2:
        *node = 4294967295u;
        break;
      case 3:
        *node = 18446744073709551615u;
        break;
      case 4:
        *node = 1e308;
        break;
      case 5:
        *node = "";
        break;
      case 6:
        *node = std::string(1 + Below(2'000), "a<(\\["[Below(5)]);
        break;
      case 7:
        *node = Json::array();
        break;
      case 8:
        *node = Json::object();
        break;
      case 9:
        *node = Below(2) == 0;
        break;
      case 10:
        *node = json;
        break;
      case 11:
        for (int depth = 0; depth < 200; ++depth) *node = Json::array({*node});
        break;
    }
    return json;
  }

  std::string Any(const std::string& text) {
    if (Below(2) == 0) return Bytes(text);
    return Value(Json::parse(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  }

 private:
  std::mt19937 random_;
};

// A refusal names one of the files.
void ExpectClear(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(
      std::string(status.message()),
      testing::AnyOf(HasSubstr("tokenizer.json: "), HasSubstr("tokenizer_config.json: "),
                     HasSubstr("special_tokens_map.json: "), HasSubstr("chat_template.jinja")));
}

void Use(const std::shared_ptr<const Tokenizer>& tokenizer) {
  // Any status will do.
  (void)tokenizer->Encode("the a<s>b \u00e9\u2581 'x' <new>", true);
  (void)tokenizer->Decode({0, 3, 5, 260, 261, 262, 270, 900, 4294967295u}, false);
  const auto stream = StreamDetokenizer::Create(tokenizer, {1, 260}, {{"a"}, true});
  if (!stream.ok()) return;
  (void)(*stream)->Append({2, 3, 4, 200, 261, 265, 270});
  (void)(*stream)->Finish();
}

TEST(HostileFiles, MutatedTokenizers) {
  Mutator mutator(1);
  uint32_t num_loaded = 0;
  uint32_t num_refused = 0;
  for (const SmallTokenizer& small : SmallTokenizers()) {
    SCOPED_TRACE(small.name);
    const std::string json = small.json.dump();
    for (int round = 0; round < 250; ++round) {
      TextFiles files = {{"tokenizer.json", json},
                         {"tokenizer_config.json", kConfig},
                         {"special_tokens_map.json", kSpecialTokensMap}};
      auto victim = files.begin();
      std::advance(victim, mutator.Below(files.size()));
      if (victim->first == "special_tokens_map.json") files["tokenizer_config.json"] = "{}";
      victim->second = mutator.Any(victim->second);
      const auto tokenizer = Tokenizer::Load(files);
      if (tokenizer.ok()) {
        ++num_loaded;
        Use(*tokenizer);
      } else {
        ++num_refused;
        ExpectClear(tokenizer.status());
      }
    }
  }
  EXPECT_GT(num_loaded, 200u);
  EXPECT_GT(num_refused, 200u);
}

TEST(HostileFiles, MutatedTemplates) {
  Mutator mutator(2);
  uint32_t num_rendered = 0;
  uint32_t num_refused = 0;
  for (int round = 0; round < 1'500; ++round) {
    TextFiles files = {{"tokenizer_config.json", kConfig}};
    if (round % 3 == 0) {
      files["tokenizer_config.json"] = mutator.Any(kConfig);
    } else {
      files["chat_template.jinja"] = mutator.Bytes(kTemplate);
    }
    const auto chat = ChatTemplate::Load(files);
    if (!chat.ok()) {
      ++num_refused;
      if (chat.status().code() != absl::StatusCode::kNotFound) ExpectClear(chat.status());
      continue;
    }
    ChatTemplate::Input input = {.messages = kMessages, .tools = kTools, .now_unix_seconds = 0};
    if (round % 5 == 0) input.messages = mutator.Any(kMessages);
    const auto rendered = (*chat)->Render(input);
    if (rendered.ok()) ++num_rendered;
  }
  EXPECT_GT(num_rendered, 200u);
  EXPECT_GT(num_refused, 200u);
}

TEST(HostileFiles, ErrorsNameTheFileAndTheReason) {
  const auto refused = [](const TextFiles& files, absl::StatusCode code, const char* message) {
    const auto tokenizer = Tokenizer::Load(files);
    EXPECT_EQ(tokenizer.status().code(), code);
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(message));
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  refused({}, absl::StatusCode::kNotFound, "no tokenizer.json");
  refused({{"tokenizer.json", "\xFF"}}, invalid, "tokenizer.json: not UTF-8 at byte 0");
  refused({{"tokenizer.json", "{"}}, invalid, "tokenizer.json: EOF");
  Json json = SmallTokenizers().front().json;
  const auto with = [&](const char* config) {
    return TextFiles{{"tokenizer.json", json.dump()}, {"tokenizer_config.json", config}};
  };
  refused(with("[]"), invalid, "tokenizer_config.json: not a JSON object");
  refused(with(R"({"bos_token": 7})"), invalid, "tokenizer_config.json: bos_token: ");
  refused(with(R"({"added_tokens_decoder": {"x": {"content": "a"}}})"), invalid,
          "added_tokens_decoder: \"x\" is no token id");
  json["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  refused(with("{}"), invalid, "decoder \"WordPiece\" cannot be streamed; supported are ByteLevel");
  json["decoder"] = nullptr;
  json["model"]["vocab"]["huge"] = 4294967295u;
  refused(with("{}"), invalid, "tokenizer.json: a token id is too large");
}

absl::StatusOr<std::string> RenderSource(const std::string& source) {
  const auto chat = ChatTemplate::Load({{"chat_template.jinja", source}});
  if (!chat.ok()) return chat.status();
  return (*chat)->Render({.messages = kMessages, .tools = kTools});
}

TEST(HostileFiles, EndlessTemplatesMeetALimit) {
  for (const char* source : {
           "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a * b %}{% endfor %}"
           "{% endfor %}",
           "{% for a in range(99999) %}{{ 'long' * 9999 }}{% endfor %}",
           "{% macro f(n) %}{{ f(n) ~ f(n) }}{% endmacro %}{{ f(1) }}",
           "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
       }) {
    const auto rendered = RenderSource(source);
    EXPECT_FALSE(rendered.ok()) << source;
    EXPECT_THAT(std::string(rendered.status().message()), HasSubstr("chat_template.jinja:"));
  }
  EXPECT_EQ(
      RenderSource("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
          .status()
          .code(),
      absl::StatusCode::kResourceExhausted);
}

TEST(HostileFiles, DeeplyNestedValuesDoNotOverflowTheStack) {
  // One level a step, as often as the limit lets it; then without meeting the limit, and used.
  const std::string nest =
      "{% set ns.x = " + std::string(30, '[') + "ns.x" + std::string(30, ']') + " %}{% endfor %}";
  const std::string start = "{% set ns = namespace(x=[]) %}";
  EXPECT_EQ(RenderSource(start + "{% for i in range(99999) %}" + nest).status().code(),
            absl::StatusCode::kResourceExhausted);
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}",
                          "{{ 'a' ~ ns.x }}", "{{ ns.x | string | length }}"}) {
    (void)RenderSource(start + "{% for i in range(25000) %}" + nest + use);
  }
}

TEST(HostileFiles, TextThatIsNotUtf8IsRefused) {
  const auto tokenizer =
      Tokenizer::Load({{"tokenizer.json", SmallTokenizers().front().json.dump()}});
  const auto ids = (*tokenizer)->Encode("ab\xC3", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("not UTF-8 at byte 2"));
}

}  // namespace
}  // namespace quire
