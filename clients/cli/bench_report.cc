#include "clients/cli/bench_report.h"

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cli/exit_code.h"
#include "clients/cli/sample_stats.h"
#include "clients/cli/text_table.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

void AddStats(const std::string& metric, std::vector<double> values,
              const std::vector<double>& percentiles, Json* json) {
  const SampleStats stats(std::move(values));
  (*json)["mean_" + metric] = stats.mean();
  (*json)["median_" + metric] = stats.median();
  (*json)["std_" + metric] = stats.stddev();
  for (const double percent : percentiles) {
    (*json)[absl::StrCat("p", percent, "_", metric)] = stats.percentile(percent);
  }
}

}  // namespace

bool GoodputLimits::Allow(const RequestSample& record) const {
  constexpr double kNoLimit = std::numeric_limits<double>::infinity();
  return record.ttft_ms() <= ttft_ms.value_or(kNoLimit) &&
         record.tpot_ms() <= tpot_ms.value_or(kNoLimit) &&
         record.latency_ms() <= e2el_ms.value_or(kNoLimit);
}

absl::StatusOr<GoodputLimits> ParseGoodput(const std::vector<std::string>& texts) {
  GoodputLimits limits;
  for (const std::string& text : texts) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
    double limit_ms = 0;
    if (!absl::SimpleAtod(parts.second, &limit_ms) || !(limit_ms > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(text, " is not METRIC:MILLISECONDS, as in ttft:2000"));
    }
    if (parts.first == "ttft") {
      limits.ttft_ms = limit_ms;
    } else if (parts.first == "tpot") {
      limits.tpot_ms = limit_ms;
    } else if (parts.first == "e2el") {
      limits.e2el_ms = limit_ms;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(parts.first, " is no metric of goodput: ttft, tpot, e2el"));
    }
  }
  return limits;
}

Json BenchReport(const std::vector<RequestSample>& records, double duration_s,
                 const GoodputLimits& goodput, const std::vector<double>& percentiles) {
  size_t completed = 0, good = 0;
  uint64_t input_tokens = 0, output_tokens = 0;
  std::vector<double> ttft, tpot, itl, e2el;
  Json errors = Json::object();
  for (const RequestSample& record : records) {
    if (!record.status.ok()) {
      Json& count = errors[Describe(record.status)];
      count = count.is_null() ? 1 : count.get<int>() + 1;
      continue;
    }
    ++completed;
    good += goodput.Allow(record);
    input_tokens += record.prompt_tokens;
    output_tokens += record.output_tokens;
    ttft.push_back(record.ttft_ms());
    e2el.push_back(record.latency_ms());
    if (record.output_tokens > 1) tpot.push_back(record.tpot_ms());
    for (const int64_t gap : record.gaps) itl.push_back(gap / 1e3);
  }
  Json json;
  json["duration"] = duration_s;
  json["completed"] = completed;
  json["failed"] = records.size() - completed;
  json["total_input_tokens"] = input_tokens;
  json["total_output_tokens"] = output_tokens;
  json["request_throughput"] = completed / duration_s;
  json["request_goodput"] = goodput.any() ? Json(good / duration_s) : Json();
  json["output_throughput"] = output_tokens / duration_s;
  json["total_token_throughput"] = (input_tokens + output_tokens) / duration_s;
  AddStats("ttft_ms", std::move(ttft), percentiles, &json);
  AddStats("tpot_ms", std::move(tpot), percentiles, &json);
  AddStats("itl_ms", std::move(itl), percentiles, &json);
  AddStats("e2el_ms", std::move(e2el), percentiles, &json);
  json["errors"] = std::move(errors);
  return json;
}

Json BenchDetails(const std::vector<RequestSample>& records) {
  Json json;
  for (const char* name :
       {"input_lens", "output_lens", "ttfts", "itls", "request_errors", "start_times"}) {
    json[name] = Json::array();
  }
  for (const RequestSample& record : records) {
    const bool is_ok = record.status.ok();
    json["input_lens"].push_back(record.prompt_tokens);
    json["output_lens"].push_back(record.output_tokens);
    json["ttfts"].push_back(is_ok ? record.ttft_ms() / 1e3 : 0);
    Json& itls = json["itls"].emplace_back(Json::array());
    if (is_ok) {
      for (const int64_t gap : record.gaps) itls.push_back(gap / 1e6);
    }
    json["request_errors"].push_back(is_ok ? "" : Describe(record.status));
    json["start_times"].push_back((record.sent - records.front().sent) / 1e6);
  }
  return json;
}

std::string BenchTable(const Json& report) {
  TextTable table({"metric", "value"});
  for (const auto& [name, value] : report.items()) {
    if (value.is_number_float()) {
      table.AddRow({name, absl::StrFormat("%.2f", value.get<double>())});
    } else if (value.is_number()) {
      table.AddRow({name, absl::StrCat(value.get<int64_t>())});
    } else if (value.is_string()) {
      table.AddRow({name, value.get<std::string>()});
    }
  }
  return table.ToString();
}

}  // namespace quire
