#ifndef QUIRE_COORDINATOR_METRICS_H_
#define QUIRE_COORDINATOR_METRICS_H_

#include <string>

#include "common/metrics.h"
#include "coordinator/stream/request_stream.h"

namespace quire {

// The coordinator's metrics and its line a request in the log. Thread safe.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(Metrics& metrics);

  void OnFirstToken(int64_t micros);
  void OnTokenGap(int64_t micros, uint32_t num_tokens);
  void OnEnd(const RequestRecord& record);
  // A call that never became a request.
  void OnRefused(const RequestRecord& record);
  void SetRunning(size_t num_live);

 private:
  prometheus::Gauge& running_;
  prometheus::Counter& successes_;
  prometheus::Counter& failures_;
  prometheus::Counter& refused_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& token_gap_;
  prometheus::Histogram& latency_;
};

// A line of key=value. Nothing in it is a text of the client's, other than its names.
std::string RequestLogLine(const RequestRecord& record);
void LogRequest(const RequestRecord& record);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_METRICS_H_
