#include "clients/cli/compare_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/sample_stats.h"
#include "clients/cli/token_equality.h"

namespace quire {
namespace {

constexpr uint32_t kWarmUpTokens = 16;
// As many as a request may ask for: the wider they spread, the more ties can be told
// (token_equality.h).
constexpr uint32_t kAlternatives = 20;

}  // namespace

CompareRunner::CompareRunner(Client* client, CompareOptions options, CallOptions call_options,
                             std::function<void(const std::string&)> on_progress,
                             std::function<void(const std::string&)> on_line)
    : client_(client),
      options_(std::move(options)),
      call_options_(call_options),
      on_progress_(std::move(on_progress)),
      on_line_(std::move(on_line)) {}

std::vector<CompareRunner::Point> CompareRunner::Points() const {
  std::vector<Point> points;
  for (const uint32_t new_tokens : options_.new_tokens) {
    points.push_back({new_tokens, 1});
    if (new_tokens != options_.concurrent_new_tokens) continue;
    for (const uint32_t concurrency : options_.concurrency)
      points.push_back({new_tokens, concurrency});
  }
  return points;
}

v1::GenerateRequest CompareRunner::Request(const CompareVariant& variant,
                                           uint32_t new_tokens) const {
  v1::GenerateRequest request;
  request.set_model(options_.model);
  request.set_engine(variant.kind);
  request.set_worker(variant.worker);
  request.set_text(options_.prompt);
  request.set_max_new_tokens(new_tokens);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

absl::StatusOr<std::vector<CompareRow>> CompareRunner::Run(
    const std::vector<CompareVariant>& variants) {
  std::vector<CompareRow> rows;
  for (const CompareVariant& variant : variants) {
    if (absl::Status status = WarmUp(variant); !status.ok()) return status;
    for (const Point& point : Points()) {
      absl::StatusOr<CompareRow> row = Measure(variant, point);
      if (!row.ok()) return row.status();
      on_line_(CompareLine(*row));
      rows.push_back(*std::move(row));
    }
  }
  for (const CompareVariant& variant : variants) {
    if (!variant.is_reference()) continue;
    absl::Status status = FindTies(variant, &rows);
    if (absl::IsCancelled(status)) return status;
    // The measurements stand: without alternatives no difference counts as a tie.
    if (!status.ok()) on_line_(absl::StrCat("ties cannot be told: ", status.message()));
  }
  return rows;
}

absl::Status CompareRunner::WarmUp(const CompareVariant& variant) {
  LoadShape shape;
  shape.num_requests = 1;
  return Send(Request(variant, kWarmUpTokens), shape,
              absl::StrCat(variant.engine, " ", variant.dtype, " warm-up"))
      .status();
}

absl::StatusOr<CompareRow> CompareRunner::Measure(const CompareVariant& variant, Point point) {
  LoadShape shape;
  shape.num_requests =
      point.concurrency == 1 ? options_.requests : point.concurrency * options_.rounds;
  shape.max_in_flight = point.concurrency;
  shape.begin_within = options_.row_budget;
  const std::string what = absl::StrFormat("%s %s, %d new tokens, %d at once", variant.engine,
                                           variant.dtype, point.new_tokens, point.concurrency);
  auto records = Send(Request(variant, point.new_tokens), shape, what);
  if (!records.ok()) return records.status();

  CompareRow row;
  row.dtype = variant.dtype;
  row.engine = variant.engine;
  row.worker = variant.worker;
  row.new_tokens = point.new_tokens;
  row.concurrency = point.concurrency;
  row.requests = records->size();
  std::vector<double> latency_s, ttft_ms, tpot_ms;
  int64_t ended = 0;
  uint64_t output_tokens = 0, reserved = 0, used = 0;
  for (const RequestSample& record : *records) {
    latency_s.push_back(record.latency_ms() / 1e3);
    ttft_ms.push_back(record.ttft_ms());
    tpot_ms.push_back(record.tpot_ms());
    ended = std::max(ended, record.last_token);
    output_tokens += record.output_tokens;
    reserved += record.usage.kv().reserved_bytes();
    used += record.usage.kv().used_bytes();
    row.max_unused_tokens = std::max(row.max_unused_tokens, record.usage.kv().max_unused_tokens());
    num_prompt_tokens_ = record.prompt_tokens;
  }
  row.duration_s = (ended - records->front().sent) / 1e6;
  const SampleStats latency(std::move(latency_s));
  row.latency_p50_s = latency.median();
  row.latency_p99_s = latency.percentile(99);
  row.ttft_ms = SampleStats(std::move(ttft_ms)).median();
  row.tpot_ms = SampleStats(std::move(tpot_ms)).median();
  row.output_tokens_per_s = row.duration_s > 0 ? output_tokens / row.duration_s : 0;
  const uint64_t at_once =
      variant.runs_together() ? std::min<size_t>(point.concurrency, row.requests) : 1;
  row.kv_reserved_bytes = reserved * at_once / row.requests;
  row.kv_used_bytes = used * at_once / row.requests;
  Compare(variant, *records, &row);
  return row;
}

void CompareRunner::Compare(const CompareVariant& variant,
                            const std::vector<RequestSample>& records, CompareRow* row) {
  if (variant.is_reference()) references_.try_emplace(row->new_tokens, records.front().token_ids);
  const auto reference = references_.find(row->new_tokens);
  if (reference == references_.end()) return;
  std::vector<std::vector<uint32_t>> outputs;
  for (const RequestSample& record : records) outputs.push_back(record.token_ids);
  row->first_difference = FirstDifference(outputs, reference->second);
  if (variant.dtype == "fp32") row->tokens_equal = !row->first_difference.has_value();
}

absl::Status CompareRunner::FindTies(const CompareVariant& reference,
                                     std::vector<CompareRow>* rows) {
  std::vector<CompareRow*> differing;
  size_t last = 0;
  for (CompareRow& row : *rows) {
    if (row.tokens_equal.value_or(true)) continue;
    differing.push_back(&row);
    last = std::max(last, *row.first_difference);
  }
  if (differing.empty()) return absl::OkStatus();
  // Greedy tokens do not depend on how many follow, so one request tells of all lengths.
  v1::GenerateRequest request = Request(reference, last + 1);
  request.set_logprobs(kAlternatives);
  LoadShape shape;
  shape.num_requests = 1;
  const auto records = Send(request, shape, "hf fp32 with log-probabilities");
  if (!records.ok()) return records.status();
  const std::vector<v1::TokenLogprobs>& logprobs = records->front().logprobs;
  for (CompareRow* row : differing) {
    row->tie = *row->first_difference < logprobs.size() && IsTie(logprobs[*row->first_difference]);
    row->tokens_equal = row->tie;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RequestSample>> CompareRunner::Send(const v1::GenerateRequest& request,
                                                               const LoadShape& shape,
                                                               const std::string& what) {
  LoadGenerator generator(
      client_, [&request](size_t) { return request; }, call_options_,
      [&](const LoadGenerator::Progress& progress) {
        on_progress_(absl::StrFormat("%s: %d of %d requests, %d tokens", what, progress.num_ended,
                                     shape.num_requests, progress.num_tokens));
      });
  {
    MutexLock lock(mutex_);
    generator_ = &generator;
    if (interrupted_) generator.Interrupt();
  }
  std::vector<RequestSample> records = generator.Run(shape);
  {
    MutexLock lock(mutex_);
    generator_ = nullptr;
    if (interrupted_) return absl::CancelledError("interrupted");
  }
  for (const RequestSample& record : records) {
    if (record.status.ok()) continue;
    absl::Status status(record.status.code(), absl::StrCat(what, ": ", record.status.message()));
    record.status.ForEachPayload([&status](absl::string_view type, const absl::Cord& payload) {
      status.SetPayload(type, payload);
    });
    return status;
  }
  return records;
}

void CompareRunner::Interrupt() {
  MutexLock lock(mutex_);
  interrupted_ = true;
  if (generator_ != nullptr) generator_->Interrupt();
}

}  // namespace quire
