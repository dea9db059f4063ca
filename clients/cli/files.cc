#include "clients/cli/files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

std::string ReadAll(std::istream& stream) {
  return std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  if (path == "-") return ReadAll(std::cin);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is a folder"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  return ReadAll(file);
}

absl::StatusOr<std::string> ReadArgument(const std::string& value) {
  if (value.empty() || value.front() != '@') return value;
  return ReadFile(value.substr(1));
}

absl::Status WriteFile(const std::string& path, absl::string_view content) {
  const std::filesystem::path target(path);
  const std::string temporary = path + ".tmp";
  std::error_code error;
  if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), error);
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file) {
    return absl::UnknownError(absl::StrCat("cannot write ", temporary, ": ", std::strerror(errno)));
  }
  std::filesystem::rename(temporary, target, error);
  if (error) return absl::UnknownError(absl::StrCat("cannot write ", path, ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace quire
