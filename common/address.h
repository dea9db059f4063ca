#ifndef QUIRE_COMMON_ADDRESS_H_
#define QUIRE_COMMON_ADDRESS_H_

#include <cstdint>
#include <string>
#include "absl/strings/string_view.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quire {

struct Address {
  std::string host;  // a name, an IPv4 address, or an IPv6 address without brackets
  uint16_t port = 0;

  std::string ToString() const;  // HOST:PORT, brackets around IPv6
  // Whether only this machine can reach it: 127.0.0.0/8, ::1, localhost.
  bool is_loopback() const;
};

// HOST:PORT or [IPV6]:PORT. The error names the text, of which other bytes than printable ASCII are
// escaped, and what is wrong with it.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// Listening elsewhere than on loopback needs `insecure` as long as the connection is not secured.
absl::Status CheckListenAddress(const Address& address, bool insecure);

}  // namespace quire

#endif  // QUIRE_COMMON_ADDRESS_H_
