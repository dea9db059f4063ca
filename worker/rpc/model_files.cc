#include "worker/rpc/model_files.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr const char* kNames[] = {
    "config.json",           "generation_config.json",  "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"};
constexpr uintmax_t kMaxBytes = 64 << 20;

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ReadModelFiles(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const char* name : kNames) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    if (const uintmax_t size = std::filesystem::file_size(path, error); error || size > kMaxBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(), " is not a file of at most ", kMaxBytes >> 20, " MiB"));
    }
    std::ifstream stream(path, std::ios::binary);
    std::ostringstream content;
    content << stream.rdbuf();
    if (!stream.good()) return absl::UnavailableError(absl::StrCat("cannot read ", path.string()));
    files[name] = std::move(content).str();
  }
  if (!files.contains("config.json")) {
    return absl::NotFoundError(absl::StrCat("no config.json in ", folder));
  }
  return files;
}

}  // namespace quire
