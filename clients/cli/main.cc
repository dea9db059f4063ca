// quire: the command line of Quire.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "clients/cli/bench_command.h"
#include "clients/cli/cancel_command.h"
#include "clients/cli/command.h"
#include "clients/cli/compare_command.h"
#include "clients/cli/drain_command.h"
#include "clients/cli/exit_code.h"
#include "clients/cli/fields_command.h"
#include "clients/cli/generate_command.h"
#include "clients/cli/load_command.h"
#include "clients/cli/models_command.h"
#include "clients/cli/tokenize_command.h"
#include "common/version.h"

namespace quire {
namespace {

std::vector<std::unique_ptr<Command>> MakeCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<GenerateCommand>());
  commands.push_back(std::make_unique<CompareCommand>());
  commands.push_back(std::make_unique<BenchCommand>());
  commands.push_back(std::make_unique<ModelsCommand>());
  commands.push_back(std::make_unique<LoadCommand>());
  commands.push_back(std::make_unique<TokenizeCommand>());
  commands.push_back(std::make_unique<DetokenizeCommand>());
  commands.push_back(std::make_unique<CancelCommand>());
  commands.push_back(std::make_unique<DrainCommand>());
  commands.push_back(std::make_unique<FieldsCommand>());
  return commands;
}

int Run(int argc, char** argv) {
  CLI::App app("Client of the Quire inference service.", "quire");
  app.set_version_flag("--version", std::string("quire ") + kVersion);
  app.require_subcommand(1);
  app.footer("Exit codes: 0 done, 1 the call failed, 2 wrong command line, 130 cancelled.");
  const std::vector<std::unique_ptr<Command>> commands = MakeCommands();
  for (const auto& command : commands) {
    CLI::App* verb = app.add_subcommand(command->name(), command->description());
    verb->set_version_flag("--version", std::string("quire ") + kVersion);
    command->Declare(*verb);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool asked = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);
    app.exit(error, std::cout, std::cerr);  // prints help or version, or what is wrong
    return asked ? kExitOk : kExitUsage;
  }
  for (const auto& command : commands) {
    if (!app.got_subcommand(command->name())) continue;
    const absl::Status status = command->Run();
    if (!status.ok()) std::cerr << "quire: " << Describe(status) << std::endl;
    return ExitCodeOf(status);
  }
  return kExitUsage;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Run(argc, argv); }
