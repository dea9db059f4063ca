#ifndef QUIRE_COMMON_ADMIN_SERVER_H_
#define QUIRE_COMMON_ADMIN_SERVER_H_

#include <grpcpp/grpcpp.h>
#include <quire/admin/v1/admin.pb.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/address.h"

namespace quire {

// Serves quire.admin.v1.Admin on an address of its own, so that whoever reaches a server cannot end
// it as well. Calls for a drain wait here until whoever drains has finished. Thread safe.
class AdminServer {
 public:
  // Port 0 takes a free one. The first call for a drain calls `on_drain` from a thread of gRPC's,
  // unless the drain has begun by then. UNAVAILABLE if it cannot listen.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(
      const Address& listen, const std::shared_ptr<grpc::ServerCredentials>& credentials,
      std::function<void()> on_drain);
  // Calls that wait end with UNAVAILABLE.
  ~AdminServer();

  const std::string& address() const { return address_; }  // HOST:PORT

  // To be called when the drain begins, whoever asked for it. What the first call for one lets the
  // running requests have, in microseconds; empty if it did not say, or if no call has come.
  std::optional<int64_t> DrainBegun();

  // Answers all calls for a drain, and returns when the answers are out, or after a second. To be
  // called once, when the drain is over. No call is taken afterwards.
  void Finish(const admin::v1::DrainReport& report);

 private:
  class Service;
  AdminServer();

  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_ADMIN_SERVER_H_
