#ifndef QUIRE_COMMON_RPC_STATUS_H_
#define QUIRE_COMMON_RPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// The one place that maps absl::Status to gRPC's and back. Details travel as google.rpc messages:
// ErrorInfo always, BadRequest where a field is named, RetryInfo where another try makes sense.
namespace quire {

// Longer delays are cut to this: a day.
inline constexpr uint32_t kMaxRetryDelayMs = 86'400'000;

// A status travels in HTTP/2 trailers, of which a peer takes 8 KiB: longer texts are cut to these.
inline constexpr size_t kMaxStatusMessageBytes = 1024;
inline constexpr size_t kMaxStatusFieldBytes = 256;

// Adds to a status what a client can act on. Kept in the status' payloads until it becomes a gRPC
// one.
absl::Status WithField(absl::Status status, absl::string_view field);
absl::Status WithRetryDelay(absl::Status status, uint32_t delay_ms);

std::optional<std::string> FieldOf(const absl::Status& status);
std::optional<uint32_t> RetryDelayOf(const absl::Status& status);

grpc::Status ToGrpc(const absl::Status& status);
// Reads the details back.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace quire

#endif  // QUIRE_COMMON_RPC_STATUS_H_
