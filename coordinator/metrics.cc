#include "coordinator/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/printable.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

// What the log says of an error. What a client wrote stays out: the message about a wrong field may
// quote it, so the field's name has to do.
std::string Why(const absl::Status& status) {
  constexpr size_t kMostBytes = 256;
  if (status.ok()) return "";
  if (const auto field = FieldOf(status); field.has_value() && absl::IsInvalidArgument(status)) {
    return absl::StrCat(" field=", *field);
  }
  return absl::StrCat(" why=\"", absl::CEscape(status.message().substr(0, kMostBytes)), "\"");
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(Metrics& m)
    : running_(m.AddGauge("num_requests_running", "Requests that have not ended")),
      successes_(m.AddCounter("request_success_total", "Requests that ended with status OK")),
      failures_(m.AddCounter("request_failure_total", "Requests that ended with another status")),
      refused_(m.AddCounter("request_refused_total", "Requests refused, a queue being full")),
      prompt_tokens_(m.AddCounter("prompt_tokens_total", "Prompt tokens of ended requests")),
      generation_tokens_(
          m.AddCounter("generation_tokens_total", "Output tokens of ended requests")),
      first_token_(m.AddLatencyHistogram("time_to_first_token_seconds", "Arrival to first token")),
      token_gap_(m.AddLatencyHistogram("inter_token_latency_seconds",
                                       "From a token to the next of the same choice")),
      latency_(m.AddLatencyHistogram("e2e_request_latency_seconds", "Arrival to end")) {}

void CoordinatorMetrics::OnFirstToken(int64_t micros) { first_token_.Observe(micros / 1e6); }

void CoordinatorMetrics::OnTokenGap(int64_t micros, uint32_t num_tokens) {
  for (uint32_t i = 0; i < num_tokens; ++i) token_gap_.Observe(micros / 1e6 / num_tokens);
}

void CoordinatorMetrics::OnEnd(const RequestRecord& record) {
  (record.status.ok() ? successes_ : failures_).Increment();
  if (absl::IsResourceExhausted(record.status)) refused_.Increment();
  prompt_tokens_.Increment(record.prompt_tokens);
  generation_tokens_.Increment(record.output_tokens);
  latency_.Observe(record.total / 1e6);
}

void CoordinatorMetrics::OnRefused(const RequestRecord& record) {
  failures_.Increment();
  if (absl::IsResourceExhausted(record.status)) refused_.Increment();
}

void CoordinatorMetrics::SetRunning(size_t num_live) {
  running_.Set(static_cast<double>(num_live));
}

std::string RequestLogLine(const RequestRecord& record) {
  return absl::StrFormat(
      "request id=%s model=%s worker=%s tenant=%s status=%s choices=%d prompt=%d cached=%d "
      "output=%d%s total_ms=%.1f%s",
      LogValue(record.request_id), LogValue(record.model), LogValue(record.worker),
      LogValue(record.tenant), absl::StatusCodeToString(record.status.code()), record.choices,
      record.prompt_tokens, record.cached_tokens, record.output_tokens,
      LogMillis("first_token_ms", record.first_token), record.total / 1e3, Why(record.status));
}

void LogRequest(const RequestRecord& record) { LogInfo(RequestLogLine(record)); }

}  // namespace quire
