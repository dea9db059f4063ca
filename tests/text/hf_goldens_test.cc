// What transformers makes of the same files, made by hf_goldens.py in this run: ids, texts,
// rendered chats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/text/text_files.h"
#include "tests/worker/model/temp_folder.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

void CheckEncode(const Tokenizer& tokenizer, const Json& cases) {
  for (const Json& golden : cases) {
    const auto ids =
        tokenizer.Encode(golden["text"].get<std::string>(), golden["add_special_tokens"]);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, golden["ids"].get<std::vector<TokenId>>()) << golden["text"];
  }
}

void CheckDecode(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& cases) {
  for (const Json& golden : cases) {
    const auto ids = golden["ids"].get<std::vector<TokenId>>();
    const auto text = golden["text"].get<std::string>();
    const bool skip = golden["skip_special_tokens"];
    EXPECT_EQ(*tokenizer->Decode(ids, skip), text) << golden["ids"];
    if (!skip) continue;
    const auto stream = StreamDetokenizer::Create(tokenizer, {}, {});
    std::string streamed = (*stream)->Append(ids)->text;
    streamed += (*stream)->Finish()->text;
    EXPECT_EQ(streamed, text) << golden["ids"];
  }
}

void CheckChats(TextFiles files, const Json& cases) {
  std::map<std::string, std::shared_ptr<const ChatTemplate>> templates;
  for (const Json& golden : cases) {
    std::string source;
    if (!golden["template"].is_null()) {
      source = golden["template"];
      files["chat_template.jinja"] = source;
    }
    if (!templates.contains(source)) {
      const auto loaded = ChatTemplate::Load(files);
      ASSERT_TRUE(loaded.ok()) << source << "\n" << loaded.status();
      templates[source] = *loaded;
    }
    ChatTemplate::Input input;
    input.messages = golden["messages"].dump();
    if (!golden["tools"].is_null()) input.tools = golden["tools"].dump();
    input.variables = golden["variables"].dump();
    input.add_generation_prompt = golden["add_generation_prompt"];
    const auto rendered = templates[source]->Render(input);
    if (golden.contains("text")) {
      EXPECT_TRUE(rendered.ok()) << source << "\n" << input.messages << rendered.status();
      if (!rendered.ok()) continue;
      EXPECT_EQ(*rendered, golden["text"].get<std::string>()) << source << "\n" << input.messages;
    } else {
      EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument)
          << source << "\n"
          << input.messages << golden["error"];
    }
  }
}

TEST(Transformers, AgreeOnIdsTextsAndChats) {
  const TempFolder temp;
  const std::string command =
      std::string(QUIRE_PYTHON " " QUIRE_TEST_SOURCE_DIR "/hf_goldens.py ") + temp.path() +
      " " QUIRE_TINY_DIR;
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const Json goldens = Json::parse(ReadFile(temp.path() + "/goldens.json"));
  ASSERT_EQ(goldens.size(), 7u);
  size_t num_chats = 0;
  for (const auto& [name, golden] : goldens.items()) {
    SCOPED_TRACE(name);
    const TextFiles files = ReadTextFiles(temp.path() + "/" + name);
    const auto tokenizer = Tokenizer::Load(files);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->vocabulary_size(), golden["size"].get<uint32_t>());
    CheckEncode(**tokenizer, golden["encode"]);
    CheckDecode(*tokenizer, golden["decode"]);
    if (!golden.contains("chats")) continue;
    num_chats += golden["chats"].size();
    CheckChats(files, golden["chats"]);
  }
  EXPECT_GE(num_chats, 500u);
}

}  // namespace
}  // namespace quire
