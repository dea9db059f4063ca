#ifndef QUIRE_CLIENTS_CPP_RETRY_POLICY_H_
#define QUIRE_CLIENTS_CPP_RETRY_POLICY_H_

#include <grpcpp/support/status.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace quire {

// How long a client goes on trying. The Python library has the same rule (docs/api.md).
struct RetryOptions {
  // How many attempts at each target in a row, without a new token between them, may end
  // UNAVAILABLE before that is the call's result.
  int max_attempts = 8;
  // The wait once every target was tried: doubled from one round to the next, up to the maximum. A
  // longer delay that the server asked for holds instead, up to the same maximum.
  std::chrono::milliseconds initial_backoff{100};
  std::chrono::milliseconds max_backoff{2000};
  // How long a stream that is cancelled waits for the server's last words.
  std::chrono::milliseconds cancel_grace{1000};
};

// How a call ended that this side has not cancelled. CANCELLED is then the server's word if it has
// details. Without them gRPC says it of a call that came while its server was shutting down, which
// is UNAVAILABLE.
absl::Status StatusOfCall(const grpc::Status& status);

// Decides for one call whether UNAVAILABLE is tried again, and when: it goes round the targets,
// with a wait after each round. Not thread safe.
class RetryPolicy {
 public:
  // REQUIRES: num_targets > 0.
  RetryPolicy(const RetryOptions& options, size_t num_targets)
      : options_(options), num_targets_(num_targets) {}

  // The wait before the next target is tried; empty: `status` is the call's result. `num_tokens`:
  // how many tokens had come.
  std::optional<std::chrono::milliseconds> AfterLoss(const absl::Status& status,
                                                     uint64_t num_tokens);

 private:
  const RetryOptions options_;
  const size_t num_targets_;
  size_t num_losses_ = 0;    // since the last new token
  uint64_t num_tokens_ = 0;  // at the last loss
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_RETRY_POLICY_H_
