#ifndef QUIRE_CLIENTS_CLI_BENCH_COMMAND_H_
#define QUIRE_CLIENTS_CLI_BENCH_COMMAND_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/bench_report.h"
#include "clients/cli/bench_requests.h"
#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"
#include "clients/cli/load_generator.h"
#include "clients/cli/request_flags.h"

namespace quire {

// `quire bench`: many requests. A closed loop keeps --concurrency of them running; an open loop
// sends them at --request-rate, whatever the server does. Fails if a request failed.
class BenchCommand final : public Command {
 public:
  const char* name() const override { return "bench"; }
  const char* description() const override { return "Send many requests and measure"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  void DeclarePrompts(CLI::App& app);
  void DeclareLoad(CLI::App& app);
  // The model asked for, or the only one. The error names those that exist.
  absl::StatusOr<v1::Model> FindModel(Client& client) const;
  absl::StatusOr<BenchRequests> MakeRequests(const v1::Model& model) const;
  LoadShape MakeShape() const;
  absl::Status WarmUp(Client& client, const BenchRequests& requests) const;
  absl::Status Report(const std::string& model, const std::vector<RequestSample>& records,
                      double duration_s) const;

  ConnectionFlags connection_;
  RequestFlags request_;
  std::vector<std::string> prompts_;
  uint32_t random_input_len_ = 0;
  uint32_t random_output_len_ = 128;
  double random_len_sigma_ = 0;
  uint32_t random_len_max_ = std::numeric_limits<uint32_t>::max();
  size_t num_prompts_ = 1000;
  size_t num_warmups_ = 1;
  size_t concurrency_ = 0;
  double request_rate_ = std::numeric_limits<double>::infinity();
  uint64_t seed_ = 0;
  GoodputLimits goodput_;
  std::vector<double> percentiles_ = {99};
  std::string output_;
  bool save_detailed_ = false;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_BENCH_COMMAND_H_
