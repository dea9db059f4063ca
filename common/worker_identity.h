#ifndef QUIRE_COMMON_WORKER_IDENTITY_H_
#define QUIRE_COMMON_WORKER_IDENTITY_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// What a worker may say of who it is. Anyone who reaches a coordinator may have said it, and it
// goes into log lines, clients' answers and every look at the workers.
namespace quire {

// A name is an address where nothing else is given: a host has 253 bytes at most, and its port 6.
inline constexpr size_t kMaxWorkerNameBytes = 260;
inline constexpr size_t kMaxIncarnationBytes = 128;

// INVALID_ARGUMENT: `value` is not 1 to `max_bytes` bytes of printable ASCII. The error names
// `field`.
absl::Status CheckIdentity(absl::string_view field, absl::string_view value,
                           size_t max_bytes = kMaxWorkerNameBytes);

// INVALID_ARGUMENT: a text of the session's first word is not printable ASCII or too long, or the
// name or the incarnation is missing.
absl::Status CheckOpened(const worker::v1::Opened& opened);

// The same of an announcement; INVALID_ARGUMENT also: its address is none that can be dialled.
absl::Status CheckAnnounced(const worker::v1::WorkerStatus& status);

}  // namespace quire

#endif  // QUIRE_COMMON_WORKER_IDENTITY_H_
