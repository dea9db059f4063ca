#ifndef QUIRE_CLIENTS_CLI_MODELS_COMMAND_H_
#define QUIRE_CLIENTS_CLI_MODELS_COMMAND_H_

#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"

namespace quire {

// `quire models`: what is served, as a table or as {"models": [...]}.
class ModelsCommand final : public Command {
 public:
  const char* name() const override { return "models"; }
  const char* description() const override { return "List the models that are served"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_MODELS_COMMAND_H_
