#ifndef QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_
#define QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_

#include <cstdint>

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
  // What there is, once so many workers are READY where that was asked for.
  absl::StatusOr<v1::GetLoadResponse> Ask();

  ConnectionFlags connection_;
  bool json_ = false;
  double wait_ready_s_ = 0;
  int64_t min_ready_ = 1;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_LOAD_COMMAND_H_
