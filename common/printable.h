#ifndef QUIRE_COMMON_PRINTABLE_H_
#define QUIRE_COMMON_PRINTABLE_H_

#include <cstdint>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace quire {

inline bool IsPrintable(char c) { return c >= ' ' && c <= '~'; }

// What others sent, for a message of ours: other bytes than printable ASCII as \xNN, and of a long
// text its first `max_bytes`.
inline std::string Printable(absl::string_view text, size_t max_bytes) {
  std::string printable;
  for (const char c : text.substr(0, max_bytes)) {
    IsPrintable(c) ? printable.push_back(c)
                   : absl::StrAppend(&printable, "\\x",
                                     absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  if (text.size() > max_bytes) absl::StrAppend(&printable, "... (", text.size(), " bytes)");
  return printable;
}

// A name as a value of a log line: in quotes if a reader could take it for more than that, or less.
inline std::string LogValue(absl::string_view name) {
  bool is_plain = !name.empty();
  for (const char c : name) is_plain &= IsPrintable(c) && c != ' ' && c != '"' && c != '=';
  return is_plain ? std::string(name) : absl::StrCat("\"", absl::CEscape(name), "\"");
}

// " NAME=12.3" for a line of the log; nothing for a time that is none, which is negative.
inline std::string LogMillis(absl::string_view name, int64_t micros) {
  return micros < 0 ? "" : absl::StrFormat(" %s=%.1f", name, micros / 1e3);
}

}  // namespace quire

#endif  // QUIRE_COMMON_PRINTABLE_H_
