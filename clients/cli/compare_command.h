#ifndef QUIRE_CLIENTS_CLI_COMPARE_COMMAND_H_
#define QUIRE_CLIENTS_CLI_COMPARE_COMMAND_H_

#include <string>
#include <vector>

#include "clients/cli/command.h"
#include "clients/cli/compare_runner.h"
#include "clients/cli/connection_flags.h"

namespace quire {

// `quire compare`: the same requests to every kind of worker that a coordinator has, one kind at a
// time. Rows show on standard error as they are measured, the table on standard output at the end;
// --output writes compare.json (compare.h).
class CompareCommand final : public Command {
 public:
  const char* name() const override { return "compare"; }
  const char* description() const override { return "Compare the engines on the same requests"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  CompareOptions options_;
  double row_budget_s_ = 10;
  std::vector<std::string> engines_;
  std::string output_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_COMPARE_COMMAND_H_
