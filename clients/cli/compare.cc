#include "clients/cli/compare.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/text_table.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json();
}

Json RowToJson(const CompareRow& row) {
  Json json;
  json["dtype"] = row.dtype;
  json["engine"] = row.engine;
  json["worker"] = row.worker;
  json["new_tokens"] = row.new_tokens;
  json["concurrency"] = row.concurrency;
  json["requests"] = row.requests;
  json["duration_s"] = row.duration_s;
  json["latency_s"] = {{"p50", row.latency_p50_s}, {"p99", row.latency_p99_s}};
  json["ttft_ms"] = row.ttft_ms;
  json["tpot_ms"] = row.tpot_ms;
  json["output_tokens_per_s"] = row.output_tokens_per_s;
  json["kv_reserved_bytes"] = row.kv_reserved_bytes;
  json["kv_used_bytes"] = row.kv_used_bytes;
  json["max_unused_tokens"] = row.max_unused_tokens;
  json["tokens_equal"] = OrNull(row.tokens_equal);
  json["tie"] = row.tie;
  json["first_difference"] = OrNull(row.first_difference);
  return json;
}

// "yes", "tie at 17", "no, at 17", or how far another dtype agrees.
std::string EqualityText(const CompareRow& row) {
  const std::string place =
      row.first_difference.has_value() ? absl::StrCat(" at ", *row.first_difference) : "";
  if (!row.tokens_equal.has_value()) return place.empty() ? "-" : absl::StrCat("differ", place);
  if (row.tie) return absl::StrCat("tie", place);
  return *row.tokens_equal ? "yes" : absl::StrCat("no", place);
}

}  // namespace

Json CompareToJson(const CompareResult& result) {
  Json json;
  json["machine"] = result.machine;
  json["versions"] = result.versions;
  json["model"] = result.model;
  json["workload"] = result.workload;
  Json& rows = json["rows"] = Json::array();
  for (const CompareRow& row : result.rows) rows.push_back(RowToJson(row));
  return json;
}

std::string CompareLine(const CompareRow& row) {
  return absl::StrFormat("%-16s %s  %4d new tokens, %2d at once: %8.3f s, %8.1f tokens/s",
                         row.engine, row.dtype, row.new_tokens, row.concurrency, row.latency_p50_s,
                         row.output_tokens_per_s);
}

std::string CompareTable(const CompareResult& result) {
  TextTable table({"engine", "dtype", "new tokens", "at once", "requests", "latency s", "p99",
                   "TTFT ms", "TPOT ms", "tokens/s", "KV reserved kB", "KV used", "equal to HF"});
  for (const CompareRow& row : result.rows) {
    const double used_share =
        row.kv_reserved_bytes > 0 ? 100.0 * row.kv_used_bytes / row.kv_reserved_bytes : 0;
    table.AddRow(
        {row.engine, row.dtype, absl::StrCat(row.new_tokens), absl::StrCat(row.concurrency),
         absl::StrCat(row.requests), absl::StrFormat("%.3f", row.latency_p50_s),
         absl::StrFormat("%.3f", row.latency_p99_s), absl::StrFormat("%.1f", row.ttft_ms),
         absl::StrFormat("%.2f", row.tpot_ms), absl::StrFormat("%.1f", row.output_tokens_per_s),
         absl::StrFormat("%.1f", row.kv_reserved_bytes / 1e3),
         absl::StrFormat("%.0f%%", used_share), EqualityText(row)});
  }
  return table.ToString();
}

}  // namespace quire
