#include "common/etcd/announcement.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/join_token.h"
#include "common/worker_identity.h"

namespace quire {

std::string WorkerKeys(const std::string& prefix) { return prefix + "/workers/"; }

std::string WorkerKey(const std::string& prefix, const std::string& name) {
  return WorkerKeys(prefix) + name;
}

std::string EndOfKeys(std::string keys) {
  ++keys.back();
  return keys;
}

std::string EncodeAnnouncement(const worker::v1::WorkerStatus& status,
                               const std::string& join_token) {
  worker::v1::Announcement announcement;
  announcement.set_status(status.SerializeAsString());
  if (!join_token.empty()) announcement.set_mac(JoinMac(join_token, announcement.status()));
  return announcement.SerializeAsString();
}

absl::StatusOr<worker::v1::WorkerStatus> DecodeAnnouncement(absl::string_view key,
                                                            const std::string& value,
                                                            const std::string& prefix,
                                                            const std::string& join_token) {
  if (value.size() > kMaxAnnouncementBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", value.size(), " bytes, more than an announcement"));
  }
  worker::v1::Announcement announcement;
  worker::v1::WorkerStatus status;
  if (!announcement.ParseFromString(value) || !status.ParseFromString(announcement.status())) {
    return absl::InvalidArgumentError("it is no announcement of a worker");
  }
  if (!join_token.empty() &&
      !SameSecret(announcement.mac(), JoinMac(join_token, announcement.status()))) {
    return absl::PermissionDeniedError(
        "it is not signed with the token of this coordinator's --join-token-file");
  }
  if (absl::Status checked = CheckAnnounced(status); !checked.ok()) return checked;
  if (key != WorkerKey(prefix, status.worker().name())) {
    return absl::InvalidArgumentError("it is the announcement of a worker of another name");
  }
  return status;
}

}  // namespace quire
