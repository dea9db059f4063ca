#ifndef QUIRE_TESTS_FAKES_CLOSED_PORT_H_
#define QUIRE_TESTS_FAKES_CLOSED_PORT_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>

#include "common/address.h"
#include "scheduler/check.h"

namespace quire {

// A port of loopback that refuses connections: bound, so that nobody else gets it, and not listened
// at.
class ClosedPort {
 public:
  ClosedPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(name);
    auto* const generic = reinterpret_cast<sockaddr*>(&name);
    QUIRE_CHECK(bind(socket_, generic, size) == 0);
    QUIRE_CHECK(getsockname(socket_, generic, &size) == 0);
    port_ = ntohs(name.sin_port);
  }
  ~ClosedPort() { Release(); }
  ClosedPort(const ClosedPort&) = delete;
  ClosedPort& operator=(const ClosedPort&) = delete;

  Address address() const { return {"127.0.0.1", port_}; }
  // From now on others may have it.
  void Release() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

 private:
  int socket_;
  uint16_t port_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_CLOSED_PORT_H_
