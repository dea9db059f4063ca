#ifndef QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_CONNECTOR_H_
#define QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_CONNECTOR_H_

#include <functional>
#include <memory>
#include <string>

#include <quire/worker/v1/worker.pb.h>
#include "absl/status/statusor.h"
#include "common/message_stream.h"
#include "coordinator/model/served_model.h"

namespace quire {

// How a coordinator reaches one worker: by gRPC, or in the process in tests. Thread safe.
class WorkerConnector {
 public:
  using Sink = MessageSink<worker::v1::SessionRequest>;
  using Handler = MessageHandler<worker::v1::SessionEvent>;
  virtual ~WorkerConnector() = default;

  // Begins a session. Failure to connect comes as the handler's OnClosed, maybe before the return.
  virtual std::shared_ptr<Sink> OpenSession(std::shared_ptr<Handler> handler) = 0;

  // Calls `done` once, on any thread, with every file, checked against its digest; or with an
  // error, at most kFetchSeconds later. What it returns ends the fetch early; it may be called at
  // any time, also afterwards.
  static constexpr int kFetchSeconds = 60;
  using CancelFetch = std::function<void()>;
  [[nodiscard]] virtual CancelFetch FetchFiles(
      const std::string& model, std::function<void(absl::StatusOr<ModelFiles>)> done) = 0;
};

// Makes the connector for HOST:PORT.
using WorkerConnectorFactory =
    std::function<std::unique_ptr<WorkerConnector>(const std::string& address)>;

}  // namespace quire

#endif  // QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_CONNECTOR_H_
