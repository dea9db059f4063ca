#ifndef QUIRE_TESTS_FUZZ_SECTIONS_H_
#define QUIRE_TESTS_FUZZ_SECTIONS_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire {

// Several files in one input that a person can read: a line "@@ NAME" begins each. What comes
// before the first such line belongs to none and is dropped.
using Sections = std::vector<std::pair<std::string, std::string>>;

inline Sections SplitSections(std::string_view input) {
  Sections sections;
  while (!input.empty()) {
    const size_t end = std::min(input.find('\n'), input.size() - 1) + 1;
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(end);
    if (line.starts_with("@@ ")) {
      sections.emplace_back(line.substr(3, line.size() - 3 - (line.ends_with('\n') ? 1 : 0)), "");
    } else if (!sections.empty()) {
      sections.back().second += line;
    }
  }
  // The line end before the next "@@" is not the file's.
  for (auto& [name, text] : sections) {
    if (text.ends_with('\n')) text.pop_back();
  }
  return sections;
}

inline std::string JoinSections(const Sections& sections) {
  std::string input;
  for (const auto& [name, text] : sections) input += "@@ " + name + "\n" + text + "\n";
  return input;
}

// The text of a section; empty if there is none.
inline std::string SectionOf(const Sections& sections, std::string_view name) {
  for (const auto& [key, text] : sections) {
    if (key == name) return text;
  }
  return "";
}

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_SECTIONS_H_
