#include "common/credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

namespace quire {

Credentials::Credentials(const TlsFiles& files) {
  if (!files.given()) {
    server_ = grpc::InsecureServerCredentials();
    channel_ = grpc::InsecureChannelCredentials();
    return;
  }
  namespace tls = grpc::experimental;
  const auto provider = std::make_shared<tls::FileWatcherCertificateProvider>(
      files.key, files.cert, files.ca, kReloadSeconds);

  tls::TlsServerCredentialsOptions server(provider);
  server.watch_root_certs();
  server.watch_identity_key_cert_pairs();
  server.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  server_ = tls::TlsServerCredentials(server);

  tls::TlsChannelCredentialsOptions channel;
  channel.set_certificate_provider(provider);
  channel.watch_root_certs();
  channel.watch_identity_key_cert_pairs();
  channel.set_verify_server_certs(true);
  channel.set_check_call_host(true);
  channel.set_certificate_verifier(std::make_shared<tls::HostNameCertificateVerifier>());
  channel_ = tls::TlsCredentials(channel);
}

}  // namespace quire
