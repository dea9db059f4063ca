#ifndef QUIRE_WORKER_RPC_JOIN_CLIENT_H_
#define QUIRE_WORKER_RPC_JOIN_CLIENT_H_

#include <memory>
#include <string>

#include <quire/worker/v1/worker.grpc.pb.h>
#include "common/message_stream.h"
#include "common/mutex.h"

namespace quire {

// Announces a worker to one coordinator, for ever: a lost or refused call is made again with the
// next Tick. Each coordinator has a client of its own, so that one that is gone delays none. Thread
// safe.
class JoinClient {
 public:
  // `announcement` is the first message of each call.
  JoinClient(const std::string& coordinator, worker::v1::WorkerStatus announcement);
  ~JoinClient();

  // To be called at least twice a second: makes a call if there is none, and reports the state on
  // it if there is.
  void Tick(const worker::v1::Load& load, bool draining);

  // Ends the call; Tick makes no other.
  void Stop();

 private:
  class Call;
  const std::string coordinator_;
  const worker::v1::WorkerStatus announcement_;
  std::unique_ptr<worker::v1::Registry::Stub> stub_;

  Mutex mutex_;
  std::shared_ptr<MessageSink<worker::v1::WorkerStatus>> sink_ QUIRE_GUARDED_BY(mutex_);
  std::shared_ptr<Call> call_ QUIRE_GUARDED_BY(mutex_);
  bool stopped_ QUIRE_GUARDED_BY(mutex_) = false;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_JOIN_CLIENT_H_
