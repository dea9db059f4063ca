#ifndef QUIRE_WORKER_MODEL_SHA256_H_
#define QUIRE_WORKER_MODEL_SHA256_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quire {

// SHA-256 (FIPS 180-4) of `size` bytes as 64 lower-case hexadecimal digits.
std::string Sha256Hex(const void* data, size_t size);
inline std::string Sha256Hex(std::string_view text) { return Sha256Hex(text.data(), text.size()); }

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_SHA256_H_
