#ifndef QUIRE_CLIENTS_CLI_FILES_H_
#define QUIRE_CLIENTS_CLI_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// A whole file; - is standard input. The error names the file and the reason.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// A flag's value: the text itself, or the content of FILE for @FILE.
absl::StatusOr<std::string> ReadArgument(const std::string& value);

// Replaces the file at once: a reader sees the old content or the new, never a part. Makes the
// folder.
absl::Status WriteFile(const std::string& path, absl::string_view content);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_FILES_H_
