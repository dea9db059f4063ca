#include "text/stop_matcher.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// Whether `text` is well-formed UTF-8: the table of the Unicode Standard, section 3.9.
bool IsUtf8(std::string_view text) {
  const auto in = [&](size_t i, uint8_t low, uint8_t high) {
    return i < text.size() && static_cast<uint8_t>(text[i]) >= low &&
           static_cast<uint8_t>(text[i]) <= high;
  };
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<uint8_t>(text[i++]);
    size_t num_more = 0;
    uint8_t low = 0x80;   // of the second byte
    uint8_t high = 0xBF;  // of the second byte
    if (lead <= 0x7F) continue;
    if (lead >= 0xC2 && lead <= 0xDF) {
      num_more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      num_more = 2;
      if (lead == 0xE0) low = 0xA0;   // overlong
      if (lead == 0xED) high = 0x9F;  // surrogates
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      num_more = 3;
      if (lead == 0xF0) low = 0x90;   // overlong
      if (lead == 0xF4) high = 0x8F;  // past U+10FFFF
    } else {
      return false;
    }
    if (!in(i, low, high)) return false;
    for (size_t k = 1; k < num_more; ++k) {
      if (!in(i + k, 0x80, 0xBF)) return false;
    }
    i += num_more;
  }
  return true;
}

absl::Status Check(absl::Span<const std::string> strings) {
  if (strings.size() > StopMatcher::kMaxStrings) {
    return absl::InvalidArgumentError(absl::StrCat("stop.strings: ", strings.size(),
                                                   " strings, at most ", StopMatcher::kMaxStrings));
  }
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::string field = absl::StrCat("stop.strings[", i, "]: ");
    if (strings[i].empty()) return absl::InvalidArgumentError(absl::StrCat(field, "empty"));
    if (strings[i].size() > StopMatcher::kMaxStringBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, strings[i].size(), " bytes, at most ", StopMatcher::kMaxStringBytes));
    }
    if (!IsUtf8(strings[i])) return absl::InvalidArgumentError(absl::StrCat(field, "not UTF-8"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StopMatcher> StopMatcher::Create(absl::Span<const std::string> strings) {
  if (absl::Status status = Check(strings); !status.ok()) return status;
  StopMatcher matcher;
  if (strings.empty()) return matcher;

  // A trie of the strings.
  States states(1);
  for (size_t i = 0; i < strings.size(); ++i) {
    uint32_t state = 0;
    for (const char c : strings[i]) {
      const auto byte = static_cast<uint8_t>(c);
      std::optional<uint32_t> child = Child(states, state, byte);
      if (!child.has_value()) {
        child = static_cast<uint32_t>(states.size());
        states[state].children.emplace_back(byte, *child);
        states.emplace_back();
        states.back().depth = states[state].depth + 1;
      }
      state = *child;
    }
    if (!states[state].match.has_value()) states[state].match = Match{i, 0, strings[i].size()};
  }

  // Fallbacks, breadth first: a state's fallback is less deep, so it is complete when needed.
  std::vector<uint32_t> order = {0};
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t parent = order[i];
    for (const auto& [byte, child] : states[parent].children) {
      State& state = states[child];
      if (parent != 0) state.fallback = Next(states, states[parent].fallback, byte);
      if (!state.match.has_value()) state.match = states[state.fallback].match;
      order.push_back(child);
    }
  }
  matcher.states_ = std::make_shared<const States>(std::move(states));
  return matcher;
}

std::optional<StopMatcher::Match> StopMatcher::Append(std::string_view piece) {
  if (states_ == nullptr) return std::nullopt;
  for (size_t i = 0; i < piece.size(); ++i) {
    state_ = Next(*states_, state_, static_cast<uint8_t>(piece[i]));
    if (std::optional<Match> match = (*states_)[state_].match) {
      match->end = i + 1;
      return match;
    }
  }
  return std::nullopt;
}

std::optional<uint32_t> StopMatcher::Child(const States& states, uint32_t state, uint8_t byte) {
  for (const auto& [label, child] : states[state].children) {
    if (label == byte) return child;
  }
  return std::nullopt;
}

uint32_t StopMatcher::Next(const States& states, uint32_t state, uint8_t byte) {
  while (true) {
    if (const std::optional<uint32_t> child = Child(states, state, byte)) return *child;
    if (state == 0) return 0;
    state = states[state].fallback;
  }
}

}  // namespace quire
