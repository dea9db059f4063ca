#ifndef QUIRE_COMMON_FLAGS_H_
#define QUIRE_COMMON_FLAGS_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace quire {

// A check for what FlagSet::Add returns: a number from `min` to `max`, which NaN is not.
CLI::Validator NumberFrom(double min, double max);

// The settings of a program. Each is declared once and has three names: a flag (--max-num-seqs), an
// environment variable (QUIRE_MAX_NUM_SEQS) and a key in a TOML or INI file given by --config
// (max-num-seqs). The command line wins over the environment, the environment over the file, the
// file over the default. A wrong value, or a key that no setting has, stops the start and is named.
// A QUIRE_ variable that no setting has may be meant for another program: it is named in a warning.
class FlagSet {
 public:
  FlagSet(std::string program, const std::string& description);

  // `name` is the flag without dashes. The value at the time of the call is the default.
  template <typename T>
  CLI::Option* Add(const std::string& name, T* value, const std::string& help) {
    names_.push_back(name);
    CLI::Option* option = app_.add_option("--" + name, *value, Help(name, help));
    option->capture_default_str();
    return option;
  }
  // A switch: --name and --no-name, or name = true in a file.
  CLI::Option* AddSwitch(const std::string& name, bool* value, const std::string& help);

  // Nothing: go on. Otherwise the exit code: 0 after --help and --version, 2 for wrong settings,
  // whose description was printed to standard error, as warnings are.
  std::optional<int> Parse(int argc, const char* const* argv);

  struct Value {
    std::string name;
    std::string value;
    std::string source;  // "command line", "environment", "file" or "default"
  };
  // Every setting, in the order of declaration. REQUIRES: Parse returned nothing.
  std::vector<Value> values() const;

 private:
  static std::string EnvironmentName(const std::string& name);
  // QUIRE_ variables of the environment that no setting has, sorted.
  std::vector<std::string> UnknownVariables() const;
  static std::string Help(const std::string& name, const std::string& help);

  const std::string program_;
  CLI::App app_;
  std::vector<std::string> names_;
  std::set<std::string> from_environment_;
  std::set<std::string> from_command_line_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_FLAGS_H_
