#ifndef QUIRE_TEXT_STOP_MATCHER_H_
#define QUIRE_TEXT_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quire {

// Finds the first of several strings in text that arrives in pieces: the automaton of Aho and
// Corasick, "Efficient string matching" (CACM 18, 1975).
//
// The first match is the one that ends first; of several ending at the same byte the longest; of
// equal strings the first listed. So it does not depend on how the text is cut into pieces.
//
// Not thread safe. Cheap to copy: copies share the automaton, of at most 16 * 256 states.
class StopMatcher {
 public:
  static constexpr size_t kMaxStrings = 16;
  static constexpr size_t kMaxStringBytes = 256;

  // No strings: never matches and never holds back.
  StopMatcher() = default;

  // INVALID_ARGUMENT for more than kMaxStrings strings, or one that is empty, longer than
  // kMaxStringBytes or not UTF-8; the message says which.
  static absl::StatusOr<StopMatcher> Create(absl::Span<const std::string> strings);

  struct Match {
    size_t index;      // of the string, in Create's list
    size_t end;        // bytes of the piece up to the end of the string
    size_t num_bytes;  // of the string; more than `end` if it began in an earlier piece
  };

  // Reads on. After a match the matcher must not be used again.
  std::optional<Match> Append(std::string_view piece);

  // Bytes at the end of what was read that may be the beginning of one of the strings.
  size_t num_held_bytes() const { return states_ == nullptr ? 0 : (*states_)[state_].depth; }

 private:
  struct State {
    std::vector<std::pair<uint8_t, uint32_t>> children;
    uint32_t fallback = 0;       // the longest proper suffix that is a state too
    uint32_t depth = 0;          // bytes from the root
    std::optional<Match> match;  // by the longest string that is a suffix; `end` is unset
  };
  using States = std::vector<State>;
  static std::optional<uint32_t> Child(const States& states, uint32_t state, uint8_t byte);
  static uint32_t Next(const States& states, uint32_t state, uint8_t byte);

  std::shared_ptr<const States> states_;  // null without strings
  uint32_t state_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TEXT_STOP_MATCHER_H_
