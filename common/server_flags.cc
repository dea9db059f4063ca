#include "common/server_flags.h"

#include "absl/strings/str_cat.h"
#include "common/address.h"

namespace quire {

void DeclareServerFlags(FlagSet& flags, ServerFlags* f) {
  flags.Add("host", &f->host, "Address to listen on");
  flags.Add("port", &f->port, "Port to listen on; 0: a free one");
  flags.Add("metrics-port", &f->metrics_port, "Port of /metrics; 0: none");
  flags.AddSwitch("insecure", &f->insecure,
                  "Allow listening beyond this machine without encryption");
  flags.Add("tls-cert", &f->tls.cert,
            "PEM file of this server's certificate; with --tls-key and --tls-ca: mutual TLS");
  flags.Add("tls-key", &f->tls.key, "PEM file of the certificate's private key");
  flags.Add("tls-ca", &f->tls.ca, "PEM file of the authorities whose certificates are trusted");
  flags.Add("join-token-file", &f->join_token_file,
            "File of the secret that workers show to join a coordinator; the same for both");
  DeclareEtcdFlags(flags, &f->etcd);
  flags.Add(
      "admin-address", &f->admin_address,
      "HOST:PORT for `quire drain`, port 0: a free one; unset: nobody can drain it by a call");
}

absl::Status CheckServerFlags(const ServerFlags& f) {
  if (absl::Status status = CheckTlsFiles(f.tls); !status.ok()) return status;
  if (absl::Status s = CheckEtcdFlags(f.etcd, f.tls.given(), f.insecure); !s.ok()) return s;
  if (!f.admin_address.empty()) {
    const absl::StatusOr<Address> admin = ParseAddress(f.admin_address);
    const absl::Status status =
        !admin.ok() ? admin.status()
                    : CheckListenAddress(*admin, /*insecure=*/f.insecure || f.tls.given());
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("--admin-address: ", status.message()));
    }
  }
  const Address listen{f.host, f.port};
  if (!f.tls.given()) return CheckListenAddress(listen, f.insecure);
  if (f.metrics_port != 0 && !listen.is_loopback() && !f.insecure) {
    return absl::FailedPreconditionError(
        absl::StrCat("--metrics-port ", f.metrics_port, ": refusing to serve /metrics on ", f.host,
                     ", which other machines can reach, without encryption: TLS is for gRPC "
                     "alone; give --insecure to allow it"));
  }
  return absl::OkStatus();
}

}  // namespace quire
