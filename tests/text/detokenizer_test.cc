#include "text/detokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/text/small_tokenizers.h"

namespace quire {
namespace {

using ::testing::StartsWith;
using Ids = std::vector<TokenId>;

std::shared_ptr<const Tokenizer> Load(const SmallTokenizer& small) {
  // Clean-up takes effect on the one that is not BPE.
  const auto tokenizer =
      Tokenizer::Load({{"tokenizer.json", small.json.dump()},
                       {"tokenizer_config.json", R"({"clean_up_tokenization_spaces": true})"}});
  EXPECT_TRUE(tokenizer.ok()) << small.name << tokenizer.status();
  return *tokenizer;
}

std::shared_ptr<const Tokenizer> LoadNamed(const std::string& name) {
  for (const SmallTokenizer& small : SmallTokenizers()) {
    if (small.name == name) return Load(small);
  }
  ADD_FAILURE() << name;
  return nullptr;
}

Ids Concatenate(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Bytes of the whole characters that begin both texts.
size_t CommonBytes(const std::string& a, const std::string& b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  auto common = static_cast<size_t>(end - a.begin());
  while (common < a.size() && (static_cast<uint8_t>(a[common]) & 0xC0) == 0x80) --common;
  return common;
}

// decode(prompt + output) without what it has in common with decode(prompt), by decoding both.
std::string WholeText(const Tokenizer& tokenizer, const Ids& prompt, const Ids& output) {
  const std::string all = *tokenizer.Decode(Concatenate(prompt, output), true);
  return all.substr(CommonBytes(all, *tokenizer.Decode(prompt, true)));
}

// The longest common beginning of the whole texts of `output` and of many continuations: each id,
// and each followed by what completes any character in ByteLevel.
std::string CertainText(const Tokenizer& tokenizer, const Ids& prompt, const Ids& output,
                        uint32_t vocabulary_size) {
  std::string certain = WholeText(tokenizer, prompt, output);
  for (TokenId next = 0; next < vocabulary_size; ++next) {
    for (const Ids& more : {Ids{next}, Ids{next, 0x80, 0x80}}) {
      const std::string text = WholeText(tokenizer, prompt, Concatenate(output, more));
      certain.resize(CommonBytes(certain, text));
    }
  }
  return certain;
}

class RandomIds {
 public:
  RandomIds(uint32_t vocabulary_size, uint32_t seed) : size_(vocabulary_size), random_(seed) {}

  // Half of the draws from the later ids: whole pieces are few among the bytes.
  TokenId One() {
    return random_() % 2 == 0 ? Below(size_ + 2) : size_ - 1 - Below(std::min(size_, 24u));
  }
  Ids Some(uint32_t max_count) {
    Ids ids(Below(max_count + 1));
    for (TokenId& id : ids) id = One();
    return ids;
  }
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

 private:
  uint32_t size_;
  std::mt19937 random_;
};

std::unique_ptr<StreamDetokenizer> Start(std::shared_ptr<const Tokenizer> tokenizer,
                                         const Ids& prompt,
                                         StreamDetokenizer::Options options = {}) {
  auto stream = StreamDetokenizer::Create(std::move(tokenizer), prompt, std::move(options));
  EXPECT_TRUE(stream.ok()) << stream.status();
  return *std::move(stream);
}

TEST(StreamDetokenizer, TextIsAFunctionOfTheIdsHoweverTheyAreGrouped) {
  for (const SmallTokenizer& small : SmallTokenizers()) {
    SCOPED_TRACE(small.name);
    const auto tokenizer = Load(small);
    RandomIds random(tokenizer->vocabulary_size(), 1);
    for (int round = 0; round < 1'500; ++round) {
      const Ids prompt = random.Some(4);
      const Ids output = random.Some(12);
      auto one_by_one = Start(tokenizer, prompt);
      std::vector<std::string> after = {""};  // n ids
      for (const TokenId id : output) {
        after.push_back(after.back() + one_by_one->Append({id})->text);
        const Ids ids(output.begin(), output.begin() + static_cast<ptrdiff_t>(after.size()) - 1);
        ASSERT_THAT(WholeText(*tokenizer, prompt, ids), StartsWith(after.back()));
      }
      auto grouped = Start(tokenizer, prompt);
      std::string text;
      for (size_t at = 0; at < output.size();) {
        const size_t end = std::min<size_t>(output.size(), at + random.Below(4));
        text += grouped->Append(absl::MakeSpan(output).subspan(at, end - at))->text;
        at = end;
        ASSERT_EQ(text, after[at]);
      }
      EXPECT_EQ(grouped->num_tokens(), output.size());
      text += grouped->Finish()->text;
      ASSERT_EQ(text, WholeText(*tokenizer, prompt, output));
      ASSERT_EQ(text, after.back() + one_by_one->Finish()->text);
    }
  }
}

TEST(StreamDetokenizer, HoldsBackOnlyWhatAFurtherIdCouldChange) {
  // A run of byte tokens waits as a whole, and so does what clean-up may take: left out here.
  for (const char* name : {"ByteLevel", "NoDecoder", "ReplaceInText"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = LoadNamed(name);
    RandomIds random(tokenizer->vocabulary_size(), 2);
    for (int round = 0; round < 60; ++round) {
      const Ids prompt = random.Some(3);
      const Ids output = random.Some(6);
      auto stream = Start(tokenizer, prompt);
      EXPECT_EQ(stream->Append(output)->text,
                CertainText(*tokenizer, prompt, output, tokenizer->vocabulary_size()));
    }
  }
}

TEST(StreamDetokenizer, EndsAtTheFirstStopString) {
  uint32_t num_stopped = 0;
  uint32_t num_stopped_by_finish = 0;
  for (const SmallTokenizer& small : SmallTokenizers()) {
    SCOPED_TRACE(small.name);
    const auto tokenizer = Load(small);
    RandomIds random(tokenizer->vocabulary_size(), 3);
    for (int round = 0; round < 1'500; ++round) {
      const Ids prompt = random.Some(3);
      const Ids output = random.Some(14);
      const std::string whole = WholeText(*tokenizer, prompt, output);
      // Stop strings cut from text that comes, so that they span tokens, or from text that may not.
      StreamDetokenizer::Options options;
      options.include_stop_in_output = round % 2 == 0;
      const std::string source = round % 3 == 0 ? *tokenizer->Decode(random.Some(5), true) : whole;
      for (uint32_t i = 0; i <= random.Below(3) && !source.empty(); ++i) {
        size_t begin = random.Below(static_cast<uint32_t>(source.size()));
        while ((static_cast<uint8_t>(source[begin]) & 0xC0) == 0x80) --begin;
        size_t end = begin + 1 + random.Below(4);
        while (end < source.size() && (static_cast<uint8_t>(source[end]) & 0xC0) == 0x80) ++end;
        options.stop_strings.push_back(source.substr(begin, end - begin));
      }
      // The first match: ends first, then the longest.
      size_t match_begin = whole.size();
      size_t match_end = whole.size() + 1;
      for (const std::string& stop : options.stop_strings) {
        const size_t at = whole.find(stop);
        if (at == std::string::npos || at + stop.size() > match_end) continue;
        if (at + stop.size() == match_end && at > match_begin) continue;
        match_begin = at;
        match_end = at + stop.size();
      }
      const bool matches = match_end <= whole.size();
      const std::string expected =
          matches ? whole.substr(0, options.include_stop_in_output ? match_end : match_begin)
                  : whole;

      auto stream = Start(tokenizer, prompt, options);
      std::string text;
      std::optional<StreamDetokenizer::StopMatch> stop;
      uint32_t num_appended = 0;
      for (const TokenId id : output) {
        const auto update = stream->Append({id});
        text += update->text;
        num_appended += stop.has_value() ? 0 : 1;
        if (update->stop.has_value()) {
          ASSERT_FALSE(stop.has_value());
          stop = update->stop;
          ++num_stopped;
        }
        ASSERT_THAT(expected, StartsWith(text));
      }
      const auto last = stream->Finish();
      text += last->text;
      if (last->stop.has_value()) {
        ASSERT_FALSE(stop.has_value());
        stop = last->stop;
        ++num_stopped_by_finish;
      }
      ASSERT_EQ(text, expected);
      ASSERT_EQ(stop.has_value(), matches);
      ASSERT_EQ(stream->stopped(), matches);
      ASSERT_EQ(stream->num_tokens(), num_appended);
      if (matches) {
        ASSERT_EQ(stop->num_tokens, num_appended);
        ASSERT_EQ(options.stop_strings[stop->stop_string],
                  whole.substr(match_begin, match_end - match_begin));
      }
    }
  }
  EXPECT_GT(num_stopped, 1'000u);
  EXPECT_GT(num_stopped_by_finish, 10u);
}

TEST(StreamDetokenizer, GivesACharacterThatThePromptBeganToTheOutput) {
  const auto tokenizer = LoadNamed("ByteLevel");
  auto completed = Start(tokenizer, {'a', 0xC3});
  EXPECT_EQ(completed->Append({0xA9})->text, "\u00e9");
  auto broken = Start(tokenizer, {'a', 0xC3});
  EXPECT_EQ(broken->Append({'b'})->text, "b");  // the prompt's own U+FFFD stays with the prompt
  auto nothing = Start(tokenizer, {'a', 0xC3});
  EXPECT_EQ(nothing->Finish()->text, "");
}

TEST(StreamDetokenizer, WaitsForTheEndOfARunOfByteTokens) {
  const auto tokenizer = LoadNamed("Llama2");
  const auto byte = [](uint32_t b) { return TokenId{2 + b}; };
  const TokenId a = *tokenizer->TokenToId("a");
  auto stream = Start(tokenizer, {a});
  EXPECT_EQ(stream->Append({byte(0xC3), byte(0xA9)})->text, "");
  EXPECT_EQ(stream->Append({a})->text,
            "\u00e9"
            "a");
  EXPECT_EQ(stream->Append({byte('x'), byte(0xFF), a})->text,
            "\uFFFD\uFFFD"
            "a");
  EXPECT_EQ(stream->Append({byte('y')})->text, "");
  EXPECT_EQ(stream->Finish()->text, "y");
}

TEST(StreamDetokenizer, RefusesWrongStopStrings) {
  const auto stream = StreamDetokenizer::Create(LoadNamed("ByteLevel"), {}, {{""}, false});
  EXPECT_EQ(stream.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(StreamDetokenizer, ACloneGoesOnByItself) {
  for (const SmallTokenizer& small : SmallTokenizers()) {
    SCOPED_TRACE(small.name);
    const auto tokenizer = Load(small);
    RandomIds random(tokenizer->vocabulary_size(), 11);
    for (int i = 0; i < 50; ++i) {
      const Ids prompt = random.Some(6);
      const Ids before = random.Some(3);
      const auto first = Start(tokenizer, prompt, {{"ab"}, false});
      const std::string begun = first->Append(before)->text;
      const auto clone = first->Clone();
      ASSERT_TRUE(clone.ok()) << clone.status();
      for (StreamDetokenizer* stream : {first.get(), clone->get()}) {
        const Ids after = random.Some(4);
        const auto whole = Start(tokenizer, prompt, {{"ab"}, false});
        std::string expected = whole->Append(Concatenate(before, after))->text;
        expected += whole->Finish()->text;
        std::string text = begun + stream->Append(after)->text;
        text += stream->Finish()->text;
        EXPECT_EQ(text, expected);
        EXPECT_EQ(stream->num_tokens(), whole->num_tokens());
      }
    }
  }
}

}  // namespace
}  // namespace quire
