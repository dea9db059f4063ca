#ifndef QUIRE_CLIENTS_CLI_EXIT_CODE_H_
#define QUIRE_CLIENTS_CLI_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"

namespace quire {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;        // the call failed
inline constexpr int kExitUsage = 2;        // the command line is wrong
inline constexpr int kExitCancelled = 130;  // by Ctrl-C, as shells count it, or by another client

int ExitCodeOf(const absl::Status& status);

// A status in one line: its code, the server's own words, the field and the retry delay if it has
// them.
std::string Describe(const absl::Status& status);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_EXIT_CODE_H_
