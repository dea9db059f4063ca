#include "clients/cli/connection_flags.h"

#include <string>

namespace quire {

void ConnectionFlags::Declare(CLI::App& app) {
  app.add_option_function<std::vector<std::string>>(
         "--target",
         [this](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) {
             absl::StatusOr<Address> address = ParseAddress(text);
             if (!address.ok()) {
               throw CLI::ValidationError("--target", std::string(address.status().message()));
             }
             targets_.push_back(*std::move(address));
           }
         },
         "Coordinators, HOST:PORT[,HOST:PORT...]; the next is tried where one is unavailable")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  app.add_option("--tls-cert", tls_.cert,
                 "PEM file of the certificate to show; with --tls-key and --tls-ca: mutual TLS");
  app.add_option("--tls-key", tls_.key, "PEM file of the certificate's private key");
  app.add_option("--tls-ca", tls_.ca, "PEM file of the authorities whose coordinators are trusted");
  app.parse_complete_callback([this] {
    if (absl::Status status = CheckTlsFiles(tls_); !status.ok()) {
      throw CLI::ValidationError(std::string(status.message()));
    }
  });
  app.add_option("--deadline-ms", deadline_ms_, "Give up after this many milliseconds; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--max-reconnects", retry_.max_reconnects,
                 "Connections in a row that a stream may lose without a new token between them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

std::unique_ptr<Client> ConnectionFlags::MakeClient() const {
  return std::make_unique<Client>(targets_, retry_, tls_);
}

CallOptions ConnectionFlags::call_options() const {
  CallOptions options;
  if (deadline_ms_ > 0) options.timeout = std::chrono::milliseconds(deadline_ms_);
  return options;
}

}  // namespace quire
