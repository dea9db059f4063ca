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

// A port of loopback that refuses connections: bound, so that no other process is given it, and not
// listened at. A server that shares its port (SO_REUSEPORT) may open it.
class ClosedPort {
 public:
  ClosedPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(name);
    auto* const generic = reinterpret_cast<sockaddr*>(&name);
    const int yes = 1;
    QUIRE_CHECK(setsockopt(socket_, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) == 0);
    QUIRE_CHECK(bind(socket_, generic, size) == 0);
    QUIRE_CHECK(getsockname(socket_, generic, &size) == 0);
    port_ = ntohs(name.sin_port);
  }
  ~ClosedPort() { close(socket_); }
  ClosedPort(const ClosedPort&) = delete;
  ClosedPort& operator=(const ClosedPort&) = delete;

  Address address() const { return {"127.0.0.1", port_}; }

 private:
  const int socket_;
  uint16_t port_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_CLOSED_PORT_H_
