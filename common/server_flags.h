#ifndef QUIRE_COMMON_SERVER_FLAGS_H_
#define QUIRE_COMMON_SERVER_FLAGS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/etcd/etcd_flags.h"
#include "common/flags.h"
#include "common/tls_files.h"

namespace quire {

// Where a server listens, what secures it, and how it finds its peers: the settings that
// coordinator and worker share.
struct ServerFlags {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  uint16_t metrics_port = 0;
  bool insecure = false;
  TlsFiles tls;
  std::string join_token_file;  // empty: no token
  EtcdFlags etcd;
  std::string admin_address;  // empty: none
};

void DeclareServerFlags(FlagSet& flags, ServerFlags* f);

// Refuses TLS files that cannot be used, and to listen without TLS where other machines could
// connect, unless --insecure was given; and what CheckEtcdFlags refuses. The error names the flag.
absl::Status CheckServerFlags(const ServerFlags& f);

}  // namespace quire

#endif  // QUIRE_COMMON_SERVER_FLAGS_H_
