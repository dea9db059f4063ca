#include "common/etcd/etcd_flags.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/address.h"

namespace quire {
namespace {

constexpr size_t kMaxEndpoints = 16;
constexpr size_t kMaxPrefixBytes = 256;

}  // namespace

void DeclareEtcdFlags(FlagSet& flags, EtcdFlags* f) {
  flags
      .Add("etcd-endpoints", &f->endpoints,
           "HOST:PORT of each member of the etcd by which workers and coordinators find each "
           "other, with commas between them")
      ->delimiter(',');
  flags.Add("etcd-prefix", &f->prefix,
            "What the keys in etcd begin with; services that share an etcd have one each");
}

absl::Status CheckEtcdFlags(const EtcdFlags& f, bool has_tls, bool insecure) {
  if (f.endpoints.size() > kMaxEndpoints) {
    return absl::InvalidArgumentError(absl::StrCat("--etcd-endpoints names ", f.endpoints.size(),
                                                   " members: ", kMaxEndpoints, " are allowed"));
  }
  for (const std::string& endpoint : f.endpoints) {
    const absl::StatusOr<Address> address = ParseAddress(endpoint);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--etcd-endpoints: ", address.status().message()));
    }
    if (address->port == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--etcd-endpoints ", endpoint, ": etcd has no port 0"));
    }
    if (!has_tls && !insecure && !address->is_loopback()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--etcd-endpoints ", endpoint,
          ": refusing to use etcd there without encryption, since who changes what it says is "
          "sent prompts: give --tls-cert, --tls-key and --tls-ca, or --insecure to allow it"));
    }
  }
  const auto printable = [](char c) { return c > ' ' && c < 127; };
  if (f.prefix.size() < 2 || f.prefix.size() > kMaxPrefixBytes || f.prefix.front() != '/' ||
      absl::EndsWith(f.prefix, "/") || !std::all_of(f.prefix.begin(), f.prefix.end(), printable)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--etcd-prefix \"", f.prefix, "\": 2 to ", kMaxPrefixBytes,
                     " printable characters are allowed, the first a slash and the last none"));
  }
  return absl::OkStatus();
}

}  // namespace quire
