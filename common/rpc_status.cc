#include "common/rpc_status.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr char kFieldPayload[] = "quire/field";
constexpr char kRetryPayload[] = "quire/retry_delay_ms";

std::string ReasonName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

// The text's beginning, of at most `max_bytes`; no UTF-8 character is cut in two.
std::string Capped(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

}  // namespace

absl::Status WithField(absl::Status status, absl::string_view field) {
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

absl::Status WithRetryDelay(absl::Status status, uint32_t delay_ms) {
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(delay_ms)));
  return status;
}

std::optional<std::string> FieldOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

std::optional<uint32_t> RetryDelayOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryPayload);
  uint32_t delay_ms = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &delay_ms))
    return std::nullopt;
  return delay_ms;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Capped(status.message(), kMaxStatusMessageBytes));
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonName(status.code()));
  info.set_domain("quire");
  if (const auto named = FieldOf(status); named.has_value()) {
    const std::string field = Capped(*named, kMaxStatusFieldBytes);
    (*info.mutable_metadata())["field"] = field;
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(field);
    violation->set_description(details.message());
    details.add_details()->PackFrom(bad_request);
  }
  details.add_details()->PackFrom(info);
  if (const auto delay_ms = RetryDelayOf(status); delay_ms.has_value()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(*delay_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int>(*delay_ms % 1000) * 1'000'000);
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(),
                      details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&bad_request) && bad_request.field_violations_size() > 0) {
      result = WithField(std::move(result), bad_request.field_violations(0).field());
    } else if (any.UnpackTo(&retry)) {
      // What a peer sends is input: any number of seconds may stand there.
      const int64_t seconds =
          std::clamp<int64_t>(retry.retry_delay().seconds(), 0, kMaxRetryDelayMs / 1000);
      const int64_t delay_ms = seconds * 1000 + retry.retry_delay().nanos() / 1'000'000;
      result =
          WithRetryDelay(std::move(result),
                         static_cast<uint32_t>(std::clamp<int64_t>(delay_ms, 0, kMaxRetryDelayMs)));
    }
  }
  return result;
}

}  // namespace quire
