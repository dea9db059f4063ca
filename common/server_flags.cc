#include "common/server_flags.h"

namespace quire {

void DeclareServerFlags(FlagSet& flags, ServerFlags* f) {
  flags.Add("host", &f->host, "Address to listen on");
  flags.Add("port", &f->port, "Port to listen on; 0: a free one");
  flags.Add("metrics-port", &f->metrics_port, "Port of /metrics; 0: none");
  flags.AddSwitch("insecure", &f->insecure,
                  "Allow listening beyond this machine without encryption");
}

}  // namespace quire
