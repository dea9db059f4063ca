#ifndef QUIRE_WORKER_RPC_JOIN_CLIENT_H_
#define QUIRE_WORKER_RPC_JOIN_CLIENT_H_

#include <memory>
#include <string>

#include <grpcpp/security/credentials.h>
#include <quire/worker/v1/worker.grpc.pb.h>
#include "absl/status/status.h"
#include "common/message_stream.h"
#include "common/mutex.h"

namespace quire {

// Announces a worker to one coordinator, for ever: a lost or refused call is made again with the
// next Tick. Each coordinator has a client of its own, so that one that is gone delays none. Thread
// safe.
class JoinClient {
 public:
  // `announcement` is the first message of each call; each shows `join_token` unless that is empty.
  JoinClient(const std::string& coordinator, worker::v1::WorkerStatus announcement,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials, std::string join_token);
  ~JoinClient();

  // To be called at least twice a second: makes a call if there is none, and reports the state on
  // it if there is.
  void Tick(const worker::v1::Load& load, bool draining);

  // Ends the call, and waits until gRPC has let go of it; Tick makes no other. Not from a thread of
  // gRPC's.
  void Stop();

 private:
  class Call;
  struct Calls;
  // Logs why a call ended before the coordinator said a word, once for each reason.
  void ReportFailure(const absl::Status& status) QUIRE_REQUIRES(mutex_);

  const std::string coordinator_;
  const worker::v1::WorkerStatus announcement_;
  const std::string join_token_;
  const std::shared_ptr<Calls> calls_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<worker::v1::Registry::Stub> stub_;

  Mutex mutex_;
  std::shared_ptr<MessageSink<worker::v1::WorkerStatus>> sink_ QUIRE_GUARDED_BY(mutex_);
  std::shared_ptr<Call> call_ QUIRE_GUARDED_BY(mutex_);
  std::string reported_failure_ QUIRE_GUARDED_BY(mutex_);  // in the log, since the last success
  int64_t report_from_ QUIRE_GUARDED_BY(mutex_) = 0;       // microseconds of the steady clock
  bool stopped_ QUIRE_GUARDED_BY(mutex_) = false;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_JOIN_CLIENT_H_
