#ifndef QUIRE_CLIENTS_CLI_TOKENIZE_COMMAND_H_
#define QUIRE_CLIENTS_CLI_TOKENIZE_COMMAND_H_

#include <quire/v1/inference.pb.h>

#include <optional>
#include <string>

#include "clients/cli/command.h"
#include "clients/cli/connection_flags.h"

namespace quire {

// `quire tokenize`: text to token ids, separated by commas as --token-ids takes them; or JSON.
class TokenizeCommand final : public Command {
 public:
  const char* name() const override { return "tokenize"; }
  const char* description() const override { return "Turn text into token ids"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  v1::TokenizeRequest request_;
  bool json_ = false;
};

// `quire detokenize`: the way back.
class DetokenizeCommand final : public Command {
 public:
  const char* name() const override { return "detokenize"; }
  const char* description() const override { return "Turn token ids into text"; }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  ConnectionFlags connection_;
  v1::DetokenizeRequest request_;
  bool json_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_TOKENIZE_COMMAND_H_
