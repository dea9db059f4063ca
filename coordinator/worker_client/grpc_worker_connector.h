#ifndef QUIRE_COORDINATOR_WORKER_CLIENT_GRPC_WORKER_CONNECTOR_H_
#define QUIRE_COORDINATOR_WORKER_CLIENT_GRPC_WORKER_CONNECTOR_H_

#include <memory>
#include <string>

#include <grpcpp/security/credentials.h>
#include "coordinator/worker_client/worker_connector.h"

namespace quire {

// A connector with a gRPC channel of its own to `address`.
std::unique_ptr<WorkerConnector> MakeGrpcWorkerConnector(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_WORKER_CLIENT_GRPC_WORKER_CONNECTOR_H_
