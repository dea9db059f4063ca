#ifndef QUIRE_CLIENTS_CLI_FIELDS_COMMAND_H_
#define QUIRE_CLIENTS_CLI_FIELDS_COMMAND_H_

#include "clients/cli/command.h"

namespace quire {

// `quire fields`: the table of a request's fields, their ranges and defaults
// (common/request_fields.h). Speaks to no server.
class FieldsCommand final : public Command {
 public:
  const char* name() const override { return "fields"; }
  const char* description() const override {
    return "Show a request's fields, ranges and defaults";
  }
  void Declare(CLI::App& app) override;
  absl::Status Run() override;

 private:
  bool markdown_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_FIELDS_COMMAND_H_
