#ifndef QUIRE_TESTS_TEXT_TEXT_FILES_H_
#define QUIRE_TESTS_TEXT_TEXT_FILES_H_

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "text/tokenizer.h"

namespace quire {

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

// What text/ reads of a model folder.
inline TextFiles ReadTextFiles(const std::filesystem::path& folder) {
  TextFiles files;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "chat_template.jinja"}) {
    if (std::filesystem::exists(folder / name)) files[name] = ReadFile(folder / name);
  }
  return files;
}

}  // namespace quire

#endif  // QUIRE_TESTS_TEXT_TEXT_FILES_H_
