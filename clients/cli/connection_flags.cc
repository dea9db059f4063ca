#include "clients/cli/connection_flags.h"

#include <string>

namespace quire {

void DeclareTargets(CLI::App& app, const std::string& description, std::vector<Address>* targets) {
  app.add_option_function<std::vector<std::string>>(
         "--target",
         [targets](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) {
             absl::StatusOr<Address> address = ParseAddress(text);
             if (!address.ok()) {
               throw CLI::ValidationError("--target", std::string(address.status().message()));
             }
             targets->push_back(*std::move(address));
           }
         },
         description)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
}

void DeclareTlsFlags(CLI::App& app, TlsFiles* tls) {
  app.add_option("--tls-cert", tls->cert,
                 "PEM file of the certificate to show; with --tls-key and --tls-ca: mutual TLS");
  app.add_option("--tls-key", tls->key, "PEM file of the certificate's private key");
  app.add_option("--tls-ca", tls->ca, "PEM file of the authorities whose servers are trusted");
  app.parse_complete_callback([tls] {
    if (absl::Status status = CheckTlsFiles(*tls); !status.ok()) {
      throw CLI::ValidationError(std::string(status.message()));
    }
  });
}

void ConnectionFlags::Declare(CLI::App& app) {
  DeclareTargets(
      app, "Coordinators, HOST:PORT[,HOST:PORT...]; the next is tried where one is unavailable",
      &targets_);
  DeclareTlsFlags(app, &tls_);
  app.add_option("--deadline-ms", deadline_ms_, "Give up after this many milliseconds; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--max-attempts", retry_.max_attempts,
                 "Attempts at each target in a row, without a new token, that may end UNAVAILABLE")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

std::unique_ptr<Client> ConnectionFlags::MakeClient() const {
  return std::make_unique<Client>(targets_, retry_, tls_);
}

std::unique_ptr<Client> ConnectionFlags::MakeHastyClient() const {
  RetryOptions once = retry_;
  once.max_attempts = 1;
  return std::make_unique<Client>(targets_, once, tls_);
}

CallOptions ConnectionFlags::call_options() const {
  CallOptions options;
  if (deadline_ms_ > 0) options.timeout = std::chrono::milliseconds(deadline_ms_);
  return options;
}

}  // namespace quire
