#ifndef QUIRE_CLIENTS_CLI_CANCEL_COMMAND_H_
#define QUIRE_CLIENTS_CLI_CANCEL_COMMAND_H_

#include <string>

#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"

namespace quire {

// `quire cancel`: stops a running request, whoever opened it; one of a tenant with its name alone.
// An unknown id is no error.
class CancelCommand final : public Command {
 public:
  const char* name() const override { return "cancel"; }
  const char* description() const override { return "Stop a running request"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  std::string request_id_;
  std::string tenant_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_CANCEL_COMMAND_H_
