#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/text/text_files.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"

namespace quire {
namespace {

TEST(EmbeddedModel, EncodesDecodesStreamsAndRenders) {
  const TextFiles files = ReadTextFiles(QUIRE_TINY_DIR);
  const auto tokenizer = Tokenizer::Load(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("hello, w\xC3\xB6rld \xF0\x9F\x98\x80", false);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*(*tokenizer)->Decode(*ids, true), "hello, w\xC3\xB6rld \xF0\x9F\x98\x80");

  const auto detokenizer = StreamDetokenizer::Create(*tokenizer, {}, {{"rld"}, false});
  ASSERT_TRUE(detokenizer.ok()) << detokenizer.status();
  std::string text;
  for (const TokenId id : *ids) text += (*detokenizer)->Append({id})->text;
  EXPECT_EQ(text, "hello, w\xC3\xB6");
  EXPECT_TRUE((*detokenizer)->stopped());

  EXPECT_TRUE((*tokenizer)->Decode(*ids, true, 18).ok());
  EXPECT_TRUE(absl::IsResourceExhausted((*tokenizer)->Decode(*ids, true, 17).status()));

  const auto chat = ChatTemplate::Load(files);
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto prompt = (*chat)->Render({.messages = R"([{"role": "user", "content": "hi"}])"});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(*prompt, "<|bos|><|user|>hi<|assistant|>");
  const auto refused = (*chat)->Render({.messages = R"([{"role": "x", "content": "hi"}])"});
  EXPECT_EQ(refused.status().message(), "chat_template.jinja:10: unknown role: x");
}

}  // namespace
}  // namespace quire
