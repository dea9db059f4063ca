#ifndef QUIRE_COMMON_SERVER_FLAGS_H_
#define QUIRE_COMMON_SERVER_FLAGS_H_

#include <cstdint>
#include <string>

#include "common/flags.h"

namespace quire {

// Where a server listens: the settings that coordinator and worker share.
struct ServerFlags {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  uint16_t metrics_port = 0;
  bool insecure = false;
};

void DeclareServerFlags(FlagSet& flags, ServerFlags* f);

}  // namespace quire

#endif  // QUIRE_COMMON_SERVER_FLAGS_H_
