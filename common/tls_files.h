#ifndef QUIRE_COMMON_TLS_FILES_H_
#define QUIRE_COMMON_TLS_FILES_H_

#include <string>

#include "absl/status/status.h"

namespace quire {

// Paths of what a process needs for mutual TLS, all in PEM format. All three are given or none.
struct TlsFiles {
  std::string cert;  // --tls-cert: its certificate, then those between it and the authority's
  std::string key;   // --tls-key: the certificate's private key, without a passphrase
  std::string ca;    // --tls-ca: certificates of the authorities whose peers are trusted

  bool given() const { return !cert.empty() || !key.empty() || !ca.empty(); }
};

// Reads the files. OK where none is given. Otherwise the error names flag and file: one that is
// missing or cannot be read, does not hold what it should, is a key of another certificate, or a
// certificate that is not valid today.
absl::Status CheckTlsFiles(const TlsFiles& files);

}  // namespace quire

#endif  // QUIRE_COMMON_TLS_FILES_H_
