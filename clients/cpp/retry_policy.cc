#include "clients/cpp/retry_policy.h"

#include <algorithm>

#include "common/rpc_status.h"

namespace quire {

absl::Status StatusOfCall(const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::CANCELLED && status.error_details().empty()) {
    return absl::UnavailableError("the server shut down as the call came");
  }
  return FromGrpc(status);
}

std::optional<std::chrono::milliseconds> RetryPolicy::AfterLoss(const absl::Status& status,
                                                                uint64_t num_tokens) {
  using std::chrono::milliseconds;
  if (!absl::IsUnavailable(status)) return std::nullopt;
  if (num_tokens > num_tokens_) num_losses_ = 0;
  num_tokens_ = num_tokens;
  ++num_losses_;
  const auto most = static_cast<size_t>(std::max(options_.max_attempts, 1));
  if (num_losses_ >= most * num_targets_) return std::nullopt;
  if (num_losses_ % num_targets_ != 0) return milliseconds(0);
  const size_t round = num_losses_ / num_targets_ - 1;
  milliseconds wait = options_.initial_backoff;
  for (size_t i = 0; i < round && wait < options_.max_backoff; ++i) wait *= 2;
  wait = std::max(wait, milliseconds(RetryDelayOf(status).value_or(0)));
  return std::min(wait, options_.max_backoff);
}

}  // namespace quire
