#ifndef QUIRE_CLIENTS_CLI_CONNECTION_FLAGS_H_
#define QUIRE_CLIENTS_CLI_CONNECTION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "clients/cpp/client.h"

namespace quire {

// --target, HOST:PORT[,HOST:PORT...]: at least one.
void DeclareTargets(CLI::App& app, const std::string& description, std::vector<Address>* targets);
// --tls-cert, --tls-key and --tls-ca, checked once all flags are read.
void DeclareTlsFlags(CLI::App& app, TlsFiles* tls);

// Which coordinators a command speaks to, how patiently, and what secures the connections.
class ConnectionFlags {
 public:
  void Declare(CLI::App& app);
  // REQUIRES: the flags were parsed.
  std::unique_ptr<Client> MakeClient() const;
  // Asks each coordinator once: for a command that goes on asking by itself.
  std::unique_ptr<Client> MakeHastyClient() const;
  CallOptions call_options() const;

 private:
  std::vector<Address> targets_;
  RetryOptions retry_;
  TlsFiles tls_;
  int deadline_ms_ = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_CONNECTION_FLAGS_H_
