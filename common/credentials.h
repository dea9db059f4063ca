#ifndef QUIRE_COMMON_CREDENTIALS_H_
#define QUIRE_COMMON_CREDENTIALS_H_

#include <memory>

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include "common/tls_files.h"

namespace quire {

// How a process' connections are secured, in both directions: by mutual TLS where files are given,
// else not at all.
//
// With TLS a server takes only clients whose certificate comes from an authority of --tls-ca, and a
// client only servers for which that holds and whose certificate names the host that was dialled
// among its subjectAltNames, as a DNS name or an IP address. Files that are replaced are read again
// within kReloadSeconds and hold for connections made afterwards; those that are open go on. Where
// new files cannot be read the old ones stay.
class Credentials {
 public:
  static constexpr unsigned kReloadSeconds = 1;

  // REQUIRES: CheckTlsFiles(files) is OK.
  explicit Credentials(const TlsFiles& files);

  // Each may be used any number of times, also when this object is gone.
  const std::shared_ptr<grpc::ServerCredentials>& server() const { return server_; }
  const std::shared_ptr<grpc::ChannelCredentials>& channel() const { return channel_; }

 private:
  std::shared_ptr<grpc::ServerCredentials> server_;
  std::shared_ptr<grpc::ChannelCredentials> channel_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_CREDENTIALS_H_
