#ifndef QUIRE_COMMON_REQUEST_FIELDS_H_
#define QUIRE_COMMON_REQUEST_FIELDS_H_

#include <cstddef>
#include <limits>
#include <string_view>

#include "absl/types/span.h"

// The one table of what a GenerateRequest may hold. The coordinator checks requests against it, the
// command line prints it as help, and docs/api.md shows it (`quire fields --markdown`).
namespace quire {

struct RequestField {
  std::string_view path;  // in the proto: "sampling.temperature"
  std::string_view flag;  // on the command line, without dashes: "temperature"; empty: it has none
  // For numbers, the bounds that hold for every model; those that a model sets are in `allowed`.
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_is_allowed = true;
  std::string_view allowed;        // "0 to 2"
  std::string_view default_value;  // what an unset field means
  std::string_view help;

  bool Allows(double value) const {  // NaN is never allowed
    return (min_is_allowed ? value >= min : value > min) && value <= max;
  }
};

absl::Span<const RequestField> RequestFields();

// REQUIRES: the table has that path.
const RequestField& FieldAt(std::string_view path);

// Limits on what is not a number.
inline constexpr size_t kMaxPromptBytes = 1 << 20;
inline constexpr size_t kMaxPromptTokens = 1 << 20;  // as token ids
inline constexpr size_t kMaxResumeTokens = 1 << 20;  // over all choices
inline constexpr size_t kMaxJsonDepth = 64;          // of a chat's tools, tool calls and variables
inline constexpr size_t kMaxNameBytes = 128;         // request_id, tenant, cache_salt
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr size_t kMaxStopTokenIds = 64;
inline constexpr size_t kMaxLogitBiases = 1024;

}  // namespace quire

#endif  // QUIRE_COMMON_REQUEST_FIELDS_H_
