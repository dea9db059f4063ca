#ifndef QUIRE_COORDINATOR_REGISTRY_REGISTRY_SERVICE_H_
#define QUIRE_COORDINATOR_REGISTRY_REGISTRY_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <quire/worker/v1/worker.grpc.pb.h>
#include "common/message_stream.h"
#include "common/mutex.h"
#include "coordinator/registry/worker_registry.h"

namespace quire {

// What a coordinator does with one Join stream, apart from the transport.
std::unique_ptr<MessageHandler<worker::v1::WorkerStatus>> MakeJoinHandler(
    WorkerRegistry* registry, const std::string& coordinator_id,
    std::shared_ptr<MessageSink<worker::v1::JoinReply>> sink);

// quire.worker.v1.Registry. Thread safe.
class RegistryService final : public worker::v1::Registry::CallbackService {
 public:
  // `join_token`: what a worker must send as kJoinTokenMetadata (common/join_token.h), else its
  // Join is PERMISSION_DENIED; empty: nothing.
  RegistryService(WorkerRegistry* registry, std::string coordinator_id, std::string join_token);

  grpc::ServerBidiReactor<worker::v1::WorkerStatus, worker::v1::JoinReply>* Join(
      grpc::CallbackServerContext* context) override;

  // Ends the Join streams that are open: they would hold up the server's end.
  void CloseJoins();

 private:
  // Whether the call shows the token; the error says why not.
  absl::Status CheckToken(const grpc::CallbackServerContext& context) const;

  WorkerRegistry* const registry_;
  const std::string coordinator_id_;
  const std::string join_token_;
  std::atomic<int64_t> warn_of_refusals_from_{0};  // microseconds of the steady clock
  Mutex mutex_;
  std::vector<std::weak_ptr<MessageSink<worker::v1::JoinReply>>> joins_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_REGISTRY_SERVICE_H_
