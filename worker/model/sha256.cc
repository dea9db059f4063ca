#include "worker/model/sha256.h"

#include <openssl/evp.h>

#include "scheduler/check.h"

namespace quire {

std::string Sha256Hex(const void* data, size_t size) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int digest_bytes = 0;
  // Fails for want of memory alone, or where OpenSSL was built without SHA-256.
  QUIRE_CHECK(EVP_Digest(data, size, digest, &digest_bytes, EVP_sha256(), nullptr) == 1);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < digest_bytes; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

}  // namespace quire
