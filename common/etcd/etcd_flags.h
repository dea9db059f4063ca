#ifndef QUIRE_COMMON_ETCD_ETCD_FLAGS_H_
#define QUIRE_COMMON_ETCD_ETCD_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/flags.h"

namespace quire {

// Where workers and coordinators find each other, where that is etcd.
struct EtcdFlags {
  std::vector<std::string> endpoints;  // empty: not by etcd
  std::string prefix = "/quire";
};

void DeclareEtcdFlags(FlagSet& flags, EtcdFlags* f);

// Refuses endpoints that are no addresses, to reach etcd on other machines without TLS unless
// `insecure`, and a prefix that is none. The error names the flag.
absl::Status CheckEtcdFlags(const EtcdFlags& f, bool has_tls, bool insecure);

}  // namespace quire

#endif  // QUIRE_COMMON_ETCD_ETCD_FLAGS_H_
