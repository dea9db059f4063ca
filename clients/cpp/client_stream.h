#ifndef QUIRE_CLIENTS_CPP_CLIENT_STREAM_H_
#define QUIRE_CLIENTS_CPP_CLIENT_STREAM_H_

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <quire/v1/inference.grpc.pb.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "clients/cpp/generate_handler.h"
#include "clients/cpp/retry_policy.h"
#include "clients/cpp/stream_progress.h"
#include "clients/cpp/targets.h"
#include "common/mutex.h"

namespace quire {

// One generation, over as many connections as it takes. Client::Start makes it.
// Thread safe; keeps itself alive until it has ended.
class ClientStream final : public std::enable_shared_from_this<ClientStream> {
 public:
  // REQUIRES: request has a request_id; the handler lives until its OnEnd returned. Empty timeout:
  // none.
  ClientStream(Targets* targets, const RetryOptions& retry, v1::GenerateRequest request,
               std::optional<std::chrono::milliseconds> timeout, GenerateHandler* handler);

  // REQUIRES: called once.
  void Start();

  // Asks the server to stop the request, so that Finished still comes with the usage so far, and
  // the stream ends with CANCELLED. A second call, or RetryOptions::cancel_grace without an end,
  // cuts the stream.
  void Cancel();

  // Waits until OnEnd has returned. Returns its status. Not from a handler.
  absl::Status Wait();

  const std::string& request_id() const { return request_.request_id(); }

 private:
  class Connection;
  struct LeasedContext {
    explicit LeasedContext(Targets* targets) : lease(targets->Hold()) {}
    const Targets::Lease lease;  // dropped after the context
    grpc::ClientContext context;
  };

  void Connect();
  void AskToCancel(std::shared_ptr<LeasedContext> context, size_t target);
  // Called by the connection. An error ends it.
  absl::Status HandleEvent(v1::GenerateEvent* event);
  void HandleConnectionEnd(absl::Status status);
  // Tries the next target after the wait.
  void Reconnect(const absl::Status& why, std::chrono::milliseconds wait);
  void End(absl::Status status);
  void Deliver(const v1::GenerateEvent& event);
  // What this connection sends.
  v1::GenerateRequest RequestForNow() const;
  // Microseconds of the steady clock; the largest value if there is no deadline.
  int64_t deadline() const;

  Targets* const targets_;
  const v1::GenerateRequest request_;
  const std::optional<std::chrono::milliseconds> timeout_;
  const std::chrono::milliseconds cancel_grace_;
  GenerateHandler* const handler_;
  const int64_t started_micros_;

  // Touched only by what runs now: Start, then one connection or timer after the other.
  RetryPolicy policy_;
  StreamProgress progress_;

  Mutex mutex_;
  CondVar ended_;
  size_t target_ QUIRE_GUARDED_BY(mutex_);
  bool cancelled_ QUIRE_GUARDED_BY(mutex_) = false;
  bool can_cancel_gently_ QUIRE_GUARDED_BY(mutex_) = false;          // the server knows the request
  std::shared_ptr<LeasedContext> context_ QUIRE_GUARDED_BY(mutex_);  // of the connection, if any
  std::unique_ptr<grpc::Alarm> retry_timer_ QUIRE_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> cancel_timer_ QUIRE_GUARDED_BY(mutex_);
  std::optional<absl::Status> result_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_CLIENT_STREAM_H_
