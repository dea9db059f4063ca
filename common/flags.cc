#include "common/flags.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/version.h"

namespace quire {

CLI::Validator NumberFrom(double min, double max) {
  const std::string range = absl::StrFormat("%.15g to %.15g", min, max);
  return CLI::Validator(
      [=](std::string& text) {
        double value;
        const bool allowed = absl::SimpleAtod(text, &value) && value >= min && value <= max;
        return allowed ? std::string() : absl::StrCat(text, ": ", range, " is allowed");
      },
      range);
}

FlagSet::FlagSet(std::string program, const std::string& description)
    : program_(std::move(program)), app_(description, program_) {
  app_.set_version_flag("--version", absl::StrCat(program_, " ", kVersion));
  app_.set_config("--config", "", "A TOML or INI file of settings: port = 8000");
  app_.allow_config_extras(CLI::config_extras_mode::error);
}

CLI::Option* FlagSet::AddSwitch(const std::string& name, bool* value, const std::string& help) {
  names_.push_back(name);
  CLI::Option* option =
      app_.add_flag(absl::StrCat("--", name, ",!--no-", name), *value,
                    absl::StrCat(Help(name, help), " [default: ", *value ? "on" : "off", "]"));
  return option->default_str(*value ? "true" : "false");
}

std::string FlagSet::EnvironmentName(const std::string& name) {
  return "QUIRE_" + absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}}));
}

std::string FlagSet::Help(const std::string& name, const std::string& help) {
  return absl::StrCat(help, " (", EnvironmentName(name), ")");
}

std::optional<int> FlagSet::Parse(int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const std::string& argument : arguments) {
    for (const std::string& name : names_) {
      const std::string_view flag = std::string_view(argument).substr(0, argument.find('='));
      if (flag == "--" + name || flag == "--no-" + name) from_command_line_.insert(name);
    }
  }
  for (const std::string& name : names_) {
    const char* value = std::getenv(EnvironmentName(name).c_str());
    if (value == nullptr || from_command_line_.contains(name)) continue;
    // A setting that repeats is a list with commas here.
    const bool repeats = app_.get_option("--" + name)->get_items_expected_max() > 1;
    for (absl::string_view item : absl::StrSplit(value, repeats ? ',' : '\0')) {
      arguments.push_back(absl::StrCat("--", name, "=", item));
    }
    from_environment_.insert(name);
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
  try {
    app_.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    std::cout << app_.help();
    return 0;
  } catch (const CLI::CallForVersion&) {
    std::cout << app_.version() << "\n";
    return 0;
  } catch (const CLI::ParseError& error) {
    std::cerr << program_ << ": " << error.what();
    std::vector<std::string> variables;
    for (const std::string& name : from_environment_) variables.push_back(EnvironmentName(name));
    if (!variables.empty()) {
      std::cerr << " (settings taken from the environment: " << absl::StrJoin(variables, ", ")
                << ")";
    }
    std::cerr << "\nTry " << program_ << " --help\n";
    return 2;
  }
  for (const std::string& variable : UnknownVariables()) {
    std::cerr << program_ << ": warning: no setting is named " << variable << ": it is ignored\n";
  }
  return std::nullopt;
}

std::vector<std::string> FlagSet::UnknownVariables() const {
  std::set<std::string> unknown;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    if (variable.starts_with("QUIRE_")) {
      unknown.emplace(variable.substr(0, variable.find('=')));
    }
  }
  for (const std::string& name : names_) unknown.erase(EnvironmentName(name));
  return {unknown.begin(), unknown.end()};
}

std::vector<FlagSet::Value> FlagSet::values() const {
  std::vector<Value> values;
  for (const std::string& name : names_) {
    const CLI::Option* option = app_.get_option("--" + name);
    Value value{name, absl::StrJoin(option->results(), ","), "default"};
    if (from_command_line_.contains(name)) {
      value.source = "command line";
    } else if (from_environment_.contains(name)) {
      value.source = "environment";
    } else if (option->count() > 0) {
      value.source = "file";
    }
    if (option->count() == 0) value.value = option->get_default_str();
    values.push_back(std::move(value));
  }
  return values;
}

}  // namespace quire
