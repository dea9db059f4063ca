#include "clients/cli/exit_code.h"

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"

namespace quire {

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  return absl::IsCancelled(status) ? kExitCancelled : kExitError;
}

std::string Describe(const absl::Status& status) {
  std::string text = absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
  if (const auto field = FieldOf(status); field.has_value()) {
    absl::StrAppend(&text, " (field ", *field, ")");
  }
  if (const auto delay_ms = RetryDelayOf(status); delay_ms.has_value()) {
    absl::StrAppend(&text, " (retry after ", *delay_ms, " ms)");
  }
  return text;
}

}  // namespace quire
