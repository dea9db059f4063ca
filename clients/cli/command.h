#ifndef QUIRE_CLIENTS_CLI_COMMAND_H_
#define QUIRE_CLIENTS_CLI_COMMAND_H_

#include <CLI/CLI.hpp>

#include "absl/status/status.h"

namespace quire {

// A verb of `quire`. main makes one of each, lets it declare its flags and runs the one that was
// named.
class Command {
 public:
  virtual ~Command() = default;
  virtual const char* name() const = 0;
  virtual const char* description() const = 0;
  // Throws nothing, but lets CLI11's callbacks throw CLI::ValidationError for a wrong value.
  virtual void Declare(CLI::App& app) = 0;
  // REQUIRES: the flags were parsed. Results go to standard output, all else to standard error.
  virtual absl::Status Run() = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_COMMAND_H_
