#ifndef QUIRE_WORKER_RPC_WORKER_SERVICE_H_
#define QUIRE_WORKER_RPC_WORKER_SERVICE_H_

#include <map>
#include <string>

#include <quire/worker/v1/worker.grpc.pb.h>
#include "worker/rpc/session_table.h"

namespace quire {

// The gRPC edge of a worker: hands connections to the session table and streams model files.
class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  // `table` outlives the service. `files` by name, as ReadModelFiles gives them.
  WorkerService(SessionTable* table, std::string model, std::map<std::string, std::string> files);

  grpc::ServerBidiReactor<worker::v1::SessionRequest, worker::v1::SessionEvent>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<worker::v1::FileChunk>* GetModelFiles(
      grpc::CallbackServerContext* context,
      const worker::v1::GetModelFilesRequest* request) override;

 private:
  SessionTable* const table_;
  const std::string model_;
  const std::map<std::string, std::string> files_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_WORKER_SERVICE_H_
