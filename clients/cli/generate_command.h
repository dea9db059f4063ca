#ifndef QUIRE_CLIENTS_CLI_GENERATE_COMMAND_H_
#define QUIRE_CLIENTS_CLI_GENERATE_COMMAND_H_

#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"
#include "clients/cli/generation.h"
#include "clients/cli/request_flags.h"

namespace quire {

// `quire generate`: one request. Its text streams to standard output, a summary follows on standard
// error; or one JSON object. Ctrl-C cancels the request at the server.
class GenerateCommand final : public Command {
 public:
  const char* name() const override { return "generate"; }
  const char* description() const override { return "Generate text for one prompt"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  void PrintText(const Generation& generation, bool streamed) const;
  void PrintSummary(const Generation& generation) const;

  ConnectionFlags connection_;
  RequestFlags request_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_GENERATE_COMMAND_H_
