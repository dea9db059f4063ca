#ifndef QUIRE_CLIENTS_CLI_COMPARE_RUNNER_H_
#define QUIRE_CLIENTS_CLI_COMPARE_RUNNER_H_

#include <quire/v1/inference.pb.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/cli/compare.h"
#include "clients/cli/compare_variant.h"
#include "clients/cli/load_generator.h"
#include "clients/cpp/client.h"
#include "common/mutex.h"

namespace quire {

struct CompareOptions {
  std::string model;  // empty: the only one served
  std::string prompt = "hello";
  std::vector<uint32_t> new_tokens = {16, 32, 64, 128, 256, 512, 1024};
  // Concurrencies above 1, and the only new_tokens at which they run.
  std::vector<uint32_t> concurrency = {8, 32};
  uint32_t concurrent_new_tokens = 64;
  // Requests of a row at concurrency 1, and for each of the concurrent streams above.
  uint32_t requests = 3;
  uint32_t rounds = 2;
  // No request of a row begins later, but the first `concurrency` ones: slow engines measure fewer.
  std::chrono::milliseconds row_budget{10'000};
};

// Workload W1 through one coordinator: greedy, EOS ignored, one worker active at a time.
class CompareRunner {
 public:
  // `on_progress` gets what is going on, some times a second; `on_line` what is worth a line that
  // stays: each row once it is measured.
  CompareRunner(Client* client, CompareOptions options, CallOptions call_options,
                std::function<void(const std::string&)> on_progress,
                std::function<void(const std::string&)> on_line);

  // Measures every variant. The first request that fails ends it, with the row named.
  absl::StatusOr<std::vector<CompareRow>> Run(const std::vector<CompareVariant>& variants);

  // Ends Run with CANCELLED. Thread safe.
  void Interrupt();

  // Of the prompt, as the workers counted it. REQUIRES: Run gave rows.
  uint32_t num_prompt_tokens() const { return num_prompt_tokens_; }

 private:
  struct Point {
    uint32_t new_tokens = 0;
    uint32_t concurrency = 1;
  };

  std::vector<Point> Points() const;
  v1::GenerateRequest Request(const CompareVariant& variant, uint32_t new_tokens) const;
  absl::Status WarmUp(const CompareVariant& variant);
  absl::StatusOr<CompareRow> Measure(const CompareVariant& variant, Point point);
  void Compare(const CompareVariant& variant, const std::vector<RequestSample>& records,
               CompareRow* row);
  // Where rows differ from the reference: asks it once more, untimed, for its closest alternatives,
  // and tells the ties.
  absl::Status FindTies(const CompareVariant& reference, std::vector<CompareRow>* rows);
  // Sends requests of one kind; fails if any did.
  absl::StatusOr<std::vector<RequestSample>> Send(const v1::GenerateRequest& request,
                                                  const LoadShape& shape, const std::string& what);

  Client* const client_;
  const CompareOptions options_;
  const CallOptions call_options_;
  const std::function<void(const std::string&)> on_progress_;
  const std::function<void(const std::string&)> on_line_;
  std::map<uint32_t, std::vector<uint32_t>> references_;  // tokens of hf fp32, by new_tokens
  uint32_t num_prompt_tokens_ = 0;

  Mutex mutex_;
  bool interrupted_ QUIRE_GUARDED_BY(mutex_) = false;
  LoadGenerator* generator_ QUIRE_GUARDED_BY(mutex_) = nullptr;  // of the row that runs
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_COMPARE_RUNNER_H_
