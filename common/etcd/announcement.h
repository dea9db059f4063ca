#ifndef QUIRE_COMMON_ETCD_ANNOUNCEMENT_H_
#define QUIRE_COMMON_ETCD_ANNOUNCEMENT_H_

#include <quire/worker/v1/worker.pb.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What workers keep in etcd for coordinators: PREFIX/workers/NAME, with an Announcement as its
// value.
namespace quire {

// Larger values are not read: what a worker says of itself takes some hundred bytes.
inline constexpr size_t kMaxAnnouncementBytes = 16 << 10;

// Longer keys neither: a prefix has 256 bytes at most, a name kMaxWorkerNameBytes.
inline constexpr size_t kMaxWorkerKeyBytes = 1024;

// "PREFIX/workers/": what every worker's key begins with.
std::string WorkerKeys(const std::string& prefix);
std::string WorkerKey(const std::string& prefix, const std::string& name);
// The end of the range of keys that begin with `keys`. REQUIRES: its last byte is not 255.
std::string EndOfKeys(std::string keys);

// `status` as a value; signed with the join token unless that is empty.
std::string EncodeAnnouncement(const worker::v1::WorkerStatus& status,
                               const std::string& join_token);

// What a value says, which anyone may have written. INVALID_ARGUMENT: it is no announcement, what
// it says cannot be of a worker (CheckAnnounced), or its name is not that of `key`.
// PERMISSION_DENIED: it is not signed with the join token, where there is one.
absl::StatusOr<worker::v1::WorkerStatus> DecodeAnnouncement(absl::string_view key,
                                                            const std::string& value,
                                                            const std::string& prefix,
                                                            const std::string& join_token);

}  // namespace quire

#endif  // QUIRE_COMMON_ETCD_ANNOUNCEMENT_H_
