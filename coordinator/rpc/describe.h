#ifndef QUIRE_COORDINATOR_RPC_DESCRIBE_H_
#define QUIRE_COORDINATOR_RPC_DESCRIBE_H_

#include <vector>

#include <quire/v1/inference.pb.h>
#include "coordinator/worker_client/worker_link.h"

// What the public API says of workers and models.
namespace quire {

v1::WorkerLoad ToWorkerLoad(const WorkerView& view);

// The models of workers that are connected, by name: a GenerateRequest for one of them is placed.
std::vector<v1::Model> ListServedModels(const std::vector<WorkerView>& views);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_DESCRIBE_H_
