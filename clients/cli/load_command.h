#ifndef QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_
#define QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_

#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"

namespace quire {

// `quire load`: what each worker does now, as a table or as {"workers": [...]}.
class LoadCommand final : public Command {
 public:
  const char* name() const override { return "load"; }
  const char* description() const override { return "Show what each worker is doing"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_
