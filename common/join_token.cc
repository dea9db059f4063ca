#include "common/join_token.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/sha256.h"

namespace quire {

absl::StatusOr<std::string> ReadJoinToken(const std::string& path) {
  const auto error = [&path](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("--join-token-file ", path, ": ", what));
  };
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  // Room for white space around it; a file that goes on is too long anyhow.
  std::string content(2 * kMaxJoinTokenBytes, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (!file.is_open() || file.bad()) {
    return error(absl::StrCat("cannot be read: ", std::strerror(errno)));
  }
  content.resize(static_cast<size_t>(file.gcount()));
  std::string token(absl::StripAsciiWhitespace(content));
  if (token.size() < kMinJoinTokenBytes || token.size() > kMaxJoinTokenBytes) {
    return error(absl::StrCat("holds ", token.size(), " bytes: ", kMinJoinTokenBytes, " to ",
                              kMaxJoinTokenBytes, " are allowed"));
  }
  const auto printable = [](char c) { return c > ' ' && c < 127; };
  if (!std::all_of(token.begin(), token.end(), printable)) {
    return error("only printable ASCII characters are allowed");
  }
  return token;
}

std::string JoinMac(const std::string& token, absl::string_view bytes) {
  std::string mac(32, '\0');
  HMAC(EVP_sha256(), token.data(), static_cast<int>(token.size()),
       reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
       reinterpret_cast<unsigned char*>(mac.data()), nullptr);
  return mac;
}

bool SameSecret(absl::string_view a, absl::string_view b) {
  // Digests have one length, so that the secrets' lengths do not show either.
  const std::string digest_a = Sha256Digest({a.data(), a.size()});
  const std::string digest_b = Sha256Digest({b.data(), b.size()});
  return CRYPTO_memcmp(digest_a.data(), digest_b.data(), digest_a.size()) == 0;
}

}  // namespace quire
