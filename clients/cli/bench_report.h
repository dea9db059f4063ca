#ifndef QUIRE_CLIENTS_CLI_BENCH_REPORT_H_
#define QUIRE_CLIENTS_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/load_generator.h"

namespace quire {

// Milliseconds that a request's metrics must keep to count as good.
struct GoodputLimits {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;

  bool any() const { return ttft_ms.has_value() || tpot_ms.has_value() || e2el_ms.has_value(); }
  bool Allow(const RequestSample& record) const;
};

// From "ttft:2000", "tpot:100" and "e2el:5000".
absl::StatusOr<GoodputLimits> ParseGoodput(const std::vector<std::string>& texts);

// What a load run came to, under the names that `vllm bench serve` writes, so that its readers fit:
//
//   duration (s), completed, failed, total_input_tokens, total_output_tokens, request_throughput,
//   request_goodput (null unless limits were given), output_throughput, total_token_throughput (a
//   second), and mean_, median_, std_, p99_ of ttft_ms, tpot_ms, itl_ms and e2el_ms.
//
// Only completed requests count, but in failed and errors (how often each error came). ITL is the
// gap between two messages with tokens, TPOT a request's mean time a token after the first.
nlohmann::ordered_json BenchReport(const std::vector<RequestSample>& records, double duration_s,
                                   const GoodputLimits& goodput,
                                   const std::vector<double>& percentiles);

// Every request, in the order of their sending, as `vllm bench serve --save-detailed` has them:
// input_lens, output_lens, ttfts and itls (seconds; those of failed requests 0 and empty); and
// request_errors (empty where there was none) and start_times, seconds from the first send.
nlohmann::ordered_json BenchDetails(const std::vector<RequestSample>& records);

// The figures for people.
std::string BenchTable(const nlohmann::ordered_json& report);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_BENCH_REPORT_H_
