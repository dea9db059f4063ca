#ifndef QUIRE_CLIENTS_CLI_DRAIN_COMMAND_H_
#define QUIRE_CLIENTS_CLI_DRAIN_COMMAND_H_

#include <optional>
#include <vector>

#include "clients/cli/command.h"
#include "common/address.h"
#include "common/tls_files.h"

namespace quire {

// `quire drain`: lets servers finish and end, one after the other, and prints what became of their
// requests.
class DrainCommand final : public Command {
 public:
  const char* name() const override { return "drain"; }
  const char* description() const override { return "Drain and end coordinators or workers"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  std::vector<Address> targets_;
  TlsFiles tls_;
  std::optional<double> timeout_s_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_DRAIN_COMMAND_H_
