#ifndef QUIRE_COMMON_SHA256_H_
#define QUIRE_COMMON_SHA256_H_

#include <string>
#include <string_view>

namespace quire {

// SHA-256 (FIPS 180-4) of the bytes: 32 bytes.
std::string Sha256Digest(std::string_view bytes);

}  // namespace quire

#endif  // QUIRE_COMMON_SHA256_H_
