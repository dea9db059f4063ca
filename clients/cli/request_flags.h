#ifndef QUIRE_CLIENTS_CLI_REQUEST_FLAGS_H_
#define QUIRE_CLIENTS_CLI_REQUEST_FLAGS_H_

#include <quire/v1/inference.pb.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <set>
#include <string>
#include <string_view>

namespace quire {

// A flag for every field of a GenerateRequest. Names, ranges and defaults in the help come from
// common/request_fields.h; the server checks the values, so that its words are the ones one reads.
class RequestFlags {
 public:
  // Leaves out the fields whose paths are in `except`.
  void Declare(CLI::App& app, const std::set<std::string_view>& except = {});

  // REQUIRES: the flags were parsed. Fields whose flag was not given are not set.
  const v1::GenerateRequest& request() const { return request_; }

 private:
  void DeclareIdentity();
  void DeclarePrompt();
  void DeclareChat();
  void DeclareSampling();
  void DeclareStop();
  void DeclareLimits();

  // Declares the flag of `path`, whose value goes to `set`. Null where the field is left out.
  template <typename T>
  CLI::Option* Add(std::string_view path, std::function<void(const T&)> set);
  // --name and --no-name.
  CLI::Option* AddSwitch(std::string_view path, std::function<void(bool)> set);
  // A flag without a line in the table.
  CLI::Option* AddText(const std::string& flag, const std::string& help,
                       std::function<void(const std::string&)> set);

  CLI::App* app_ = nullptr;
  const std::set<std::string_view>* except_ = nullptr;
  v1::GenerateRequest request_;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_REQUEST_FLAGS_H_
