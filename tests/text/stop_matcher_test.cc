#include "text/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>

namespace quire {
namespace {

using ::testing::HasSubstr;

StopMatcher Make(const std::vector<std::string>& strings) {
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(strings);
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  return *std::move(matcher);
}

// (end, length, index) of the first match in `text`, by looking at every byte and string.
std::optional<std::tuple<size_t, size_t, size_t>> FindNaively(
    const std::vector<std::string>& strings, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < strings.size(); ++i) {
      const std::string& s = strings[i];
      if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0 &&
          (!best.has_value() || s.size() > strings[*best].size())) {
        best = i;
      }
    }
    if (best.has_value()) return std::tuple(end, strings[*best].size(), *best);
  }
  return std::nullopt;
}

size_t HeldNaively(const std::vector<std::string>& strings, const std::string& text) {
  size_t held = 0;
  for (const std::string& s : strings) {
    for (size_t n = 1; n < s.size() && n <= text.size(); ++n) {
      if (text.compare(text.size() - n, n, s, 0, n) == 0) held = std::max(held, n);
    }
  }
  return held;
}

TEST(StopMatcher, AgreesWithNaiveSearchHoweverTheTextIsCut) {
  std::mt19937 random(1);
  const auto word = [&](size_t max_size) {
    std::string s(1 + random() % max_size, 'a');
    for (char& c : s) c = "aab"[random() % 3];
    return s;
  };
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> strings(1 + random() % 4);
    for (std::string& s : strings) s = word(7);
    const std::string text = word(24);
    const auto expected = FindNaively(strings, text);

    StopMatcher matcher = Make(strings);
    bool matched = false;
    for (size_t at = 0; at < text.size() && !matched;) {
      const std::string piece = text.substr(at, random() % 4);
      const auto match = matcher.Append(piece);
      if (match.has_value()) {
        ASSERT_TRUE(expected.has_value());
        EXPECT_EQ(std::tuple(at + match->end, match->num_bytes, match->index), *expected);
        matched = true;
      }
      at += piece.size();
      if (!matched) {
        EXPECT_EQ(matcher.num_held_bytes(), HeldNaively(strings, text.substr(0, at)));
      }
    }
    EXPECT_EQ(matched, expected.has_value()) << text;
  }
}

TEST(StopMatcher, WithoutStringsNeverMatches) {
  StopMatcher matcher = Make({});
  EXPECT_FALSE(matcher.Append("anything").has_value());
  EXPECT_EQ(matcher.num_held_bytes(), 0u);
}

TEST(StopMatcher, RefusesWhatIsOutOfRange) {
  const auto refused = [](const std::vector<std::string>& strings, const char* message) {
    const auto matcher = StopMatcher::Create(strings);
    EXPECT_EQ(matcher.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(matcher.status().message()), HasSubstr(message));
  };
  refused(std::vector<std::string>(17, "x"), "17 strings, at most 16");
  refused({"x", ""}, "stop.strings[1]: empty");
  refused({std::string(257, 'x')}, "257 bytes, at most 256");
  for (const char* bad : {"\x80", "a\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF0\x9F\x98", "\xFF", "\xE2\x28\xA1"}) {
    refused({bad}, "stop.strings[0]: not UTF-8");
  }
  EXPECT_TRUE(StopMatcher::Create({{"\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEF\xBF\xBF",
                                    "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}})
                  .ok());
  EXPECT_TRUE(StopMatcher::Create(std::vector<std::string>(16, std::string(256, 'x'))).ok());
}

}  // namespace
}  // namespace quire
