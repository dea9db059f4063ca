#ifndef QUIRE_COMMON_DRAIN_H_
#define QUIRE_COMMON_DRAIN_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <grpcpp/security/server_credentials.h>
#include <quire/admin/v1/admin.pb.h>
#include "absl/status/statusor.h"
#include "common/admin_server.h"

namespace quire {

// Serves drain calls on `address`, HOST:PORT; null if that is empty. A call ends the process as a
// signal does. Errors are those of AdminServer::Start.
absl::StatusOr<std::unique_ptr<AdminServer>> StartAdminServer(
    const std::string& address, const std::shared_ptr<grpc::ServerCredentials>& credentials);

// A server's way from the wish that it end to its end, of which it keeps time and account.
class Drain {
 public:
  // Waits for a termination signal or a call to `admin`, which may be null. Running requests then
  // have `timeout_s`, or what the call lets them have if that is less. A second signal from outside
  // ends the process at once. `on_signal`, if there is one, runs after each of these first.
  Drain(AdminServer* admin, double timeout_s, const std::function<void()>& on_signal = nullptr);

  int64_t deadline() const { return deadline_; }  // steady, microseconds

  // Nothing new is taken; so many requests run.
  void Begin(size_t num_running);
  // All of them are over, or were ended when their time was.
  void SetDrained();
  void SetCut(size_t num_cut);
  // The report goes to who called for the drain. So many of the requests went elsewhere.
  void Finish(size_t num_moved);

 private:
  AdminServer* const admin_;
  int64_t began_ = 0;
  int64_t deadline_ = 0;
  admin::v1::DrainReport report_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_DRAIN_H_
