#ifndef QUIRE_COMMON_JOIN_TOKEN_H_
#define QUIRE_COMMON_JOIN_TOKEN_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// The secret that the workers and coordinators of a service share: with it a worker shows that it
// may be sent prompts. It travels as this metadata of Registry.Join.
inline constexpr char kJoinTokenMetadata[] = "quire-join-token";

inline constexpr size_t kMinJoinTokenBytes = 16;
inline constexpr size_t kMaxJoinTokenBytes = 1024;

// What the file of --join-token-file holds, without white space around it: printable ASCII, which
// is what metadata can carry, within the bounds above. The error names flag and file, and quotes
// nothing of it.
absl::StatusOr<std::string> ReadJoinToken(const std::string& path);

// Shows who knows the token that the bytes are his: HMAC-SHA256 (RFC 2104), 32 bytes.
std::string JoinMac(const std::string& token, absl::string_view bytes);

// Whether two secrets are the same, in a time that tells nothing of either.
bool SameSecret(absl::string_view a, absl::string_view b);

}  // namespace quire

#endif  // QUIRE_COMMON_JOIN_TOKEN_H_
