#include "common/tls_files.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freed<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

absl::Status Wrong(absl::string_view flag, absl::string_view file, absl::string_view what) {
  ERR_clear_error();  // what libcrypto left would be taken for a later caller's
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", file, ": ", what));
}

absl::StatusOr<std::string> Read(absl::string_view flag, const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    return Wrong(flag, path,
                 absl::StrCat("cannot be read", errno == 0 ? "" : ": ",
                              errno == 0 ? "" : std::strerror(errno)));
  }
  return std::move(content).str();
}

Bio Open(const std::string& content) {
  return Bio(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
}

absl::StatusOr<Certificate> ReadCertificate(absl::string_view flag, const std::string& path) {
  const auto content = Read(flag, path);
  if (!content.ok()) return content.status();
  Certificate certificate(PEM_read_bio_X509(Open(*content).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Wrong(flag, path, "holds no certificate in PEM format");
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return Wrong(flag, path, "the certificate has expired");
  }
  if (X509_cmp_current_time(X509_get0_notBefore(certificate.get())) > 0) {
    return Wrong(flag, path, "the certificate is not valid yet");
  }
  return certificate;
}

absl::StatusOr<PrivateKey> ReadKey(absl::string_view flag, const std::string& path) {
  const auto content = Read(flag, path);
  if (!content.ok()) return content.status();
  // Without a callback libcrypto would ask the terminal for the passphrase.
  const auto no_passphrase = [](char*, int, int, void*) { return -1; };
  PrivateKey key(PEM_read_bio_PrivateKey(Open(*content).get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) {
    return Wrong(flag, path, "holds no private key in PEM format without a passphrase");
  }
  return key;
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (!files.given()) return absl::OkStatus();
  // Handshakes may run on threads of gRPC's when the process exits: libcrypto is not to be taken
  // from under them. Only its first initialization can say so.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  for (const auto& [flag, path] :
       {std::pair("--tls-cert", &files.cert), std::pair("--tls-key", &files.key),
        std::pair("--tls-ca", &files.ca)}) {
    if (!path->empty()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        flag, " is missing: --tls-cert, --tls-key and --tls-ca are given together or not at all"));
  }
  const auto certificate = ReadCertificate("--tls-cert", files.cert);
  if (!certificate.ok()) return certificate.status();
  const auto key = ReadKey("--tls-key", files.key);
  if (!key.ok()) return key.status();
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    return Wrong("--tls-key", files.key,
                 absl::StrCat("is not the key of the certificate of --tls-cert ", files.cert));
  }
  return ReadCertificate("--tls-ca", files.ca).status();
}

}  // namespace quire
