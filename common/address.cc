#include "common/address.h"

#include <arpa/inet.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/printable.h"

namespace quire {
namespace {

constexpr size_t kMaxHostBytes = 253;  // of a DNS name

// An IPv6 address has colons, and may have a zone after a %.
bool IsHost(absl::string_view host, bool has_brackets) {
  const absl::string_view others = has_brackets ? ".-_:%" : ".-_";
  return host.size() <= kMaxHostBytes && std::all_of(host.begin(), host.end(), [others](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  absl::StrContains(others, c);
         });
}

}  // namespace

std::string Address::ToString() const {
  const bool is_ipv6 = absl::StrContains(host, ':');
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool Address::is_loopback() const {
  in_addr ipv4;
  const bool is_ipv4 = inet_pton(AF_INET, host.c_str(), &ipv4) == 1;
  return host == "localhost" || host == "::1" || (is_ipv4 && ntohl(ipv4.s_addr) >> 24 == 127);
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const auto error = [text](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", Printable(text, kMaxHostBytes),
                     "\" is not an address (HOST:PORT or [IPV6]:PORT): ", what));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return error("the port is missing");
  absl::string_view host = text.substr(0, colon);
  const bool has_brackets = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  if (has_brackets) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ':')) {
    return error("an IPv6 address needs brackets");
  }
  if (host.empty()) return error("the host is missing");
  if (!IsHost(host, has_brackets)) {
    return error(absl::StrCat("the host is not of letters, digits, dots, hyphens and underscores, ",
                              kMaxHostBytes, " at most"));
  }
  uint32_t port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port > 65535) {
    return error("the port is not a number from 0 to 65535");
  }
  return Address{std::string(host), static_cast<uint16_t>(port)};
}

absl::Status CheckListenAddress(const Address& address, bool insecure) {
  if (address.is_loopback() || insecure) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("refusing to listen on ", address.host,
                   ", which other machines can reach, without encryption: give --tls-cert, "
                   "--tls-key and --tls-ca, or "
                   "--insecure to allow it"));
}

}  // namespace quire
