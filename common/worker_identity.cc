#include "common/worker_identity.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/printable.h"

namespace quire {
namespace {

// `prefix` is the path of what holds the fields.
absl::Status CheckTexts(absl::string_view prefix, const std::string& incarnation,
                        const worker::v1::WorkerInfo& info) {
  if (absl::Status status =
          CheckIdentity(absl::StrCat(prefix, ".incarnation"), incarnation, kMaxIncarnationBytes);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckIdentity(absl::StrCat(prefix, ".worker.name"), info.name());
      !status.ok()) {
    return status;
  }
  const std::pair<absl::string_view, const std::string*> texts[] = {
      {"model", &info.model()},     {"numerics_id", &info.numerics_id()},
      {"dtype", &info.dtype()},     {"kv_cache", &info.kv_cache()},
      {"version", &info.version()},
  };
  for (const auto& [field, value] : texts) {
    if (value->empty()) continue;
    if (absl::Status status = CheckIdentity(absl::StrCat(prefix, ".worker.", field), *value);
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckIdentity(absl::string_view field, absl::string_view value, size_t max_bytes) {
  const bool printable = std::all_of(value.begin(), value.end(), IsPrintable);
  if (printable && !value.empty() && value.size() <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", value.size(), printable ? " bytes" : " bytes, not all printable",
                   "; allowed: 1 to ", max_bytes, " printable ASCII bytes"));
}

absl::Status CheckOpened(const worker::v1::Opened& opened) {
  return CheckTexts("Opened", opened.incarnation(), opened.worker());
}

absl::Status CheckAnnounced(const worker::v1::WorkerStatus& status) {
  const absl::StatusOr<Address> address = ParseAddress(status.address());
  if (!address.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("WorkerStatus.address: ", address.status().message()));
  }
  if (address->port == 0) return absl::InvalidArgumentError("WorkerStatus.address has the port 0");
  return CheckTexts("WorkerStatus", status.incarnation(), status.worker());
}

}  // namespace quire
