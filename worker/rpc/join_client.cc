#include "worker/rpc/join_client.h"

#include <atomic>
#include <utility>

#include <grpcpp/grpcpp.h>
#include "absl/strings/str_cat.h"
#include "common/grpc_stream.h"
#include "common/keepalive.h"
#include "common/logging.h"

namespace quire {

using worker::v1::JoinReply;
using worker::v1::WorkerStatus;

// Hears what a coordinator answers. Outlives the client if it must: it knows only its own state.
class JoinClient::Call final : public MessageHandler<JoinReply> {
 public:
  explicit Call(std::string coordinator) : coordinator_(std::move(coordinator)) {}
  void OnMessage(JoinReply reply) override {
    if (!reply.refused().empty()) {
      LogWarning(
          absl::StrCat("coordinator ", coordinator_, " refuses this worker: ", reply.refused()));
    } else if (!greeted_) {
      LogInfo(absl::StrCat("joined coordinator ", coordinator_));
      greeted_ = true;
    }
  }
  void OnClosed(const absl::Status& status) override {
    if (greeted_) {
      LogWarning(absl::StrCat("coordinator ", coordinator_, " is gone: ", status.ToString()));
    }
    closed_.store(true);
  }
  bool closed() const { return closed_.load(); }

 private:
  const std::string coordinator_;
  bool greeted_ = false;
  std::atomic<bool> closed_{false};
};

JoinClient::JoinClient(const std::string& coordinator, WorkerStatus announcement)
    : coordinator_(coordinator), announcement_(std::move(announcement)) {
  grpc::ChannelArguments arguments;
  // gRPC backs off for up to minutes of its own accord.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 400);
  SetKeepalive(&arguments);
  stub_ = worker::v1::Registry::NewStub(
      grpc::CreateCustomChannel(coordinator, grpc::InsecureChannelCredentials(), arguments));
}

JoinClient::~JoinClient() { Stop(); }

void JoinClient::Tick(const worker::v1::Load& load, bool draining) {
  MutexLock lock(mutex_);
  if (stopped_) return;
  if (call_ != nullptr && !call_->closed()) {
    WorkerStatus status;
    *status.mutable_load() = load;
    status.set_draining(draining);
    sink_->Write(std::move(status));
    return;
  }
  call_ = std::make_shared<Call>(coordinator_);
  sink_ = GrpcClientStream<WorkerStatus, JoinReply>::Start(
      {.max_messages = 16}, call_, [this](grpc::ClientContext* context, auto* reactor) {
        stub_->async()->Join(context, reactor);
      });
  WorkerStatus first = announcement_;
  *first.mutable_load() = load;
  first.set_draining(draining);
  sink_->Write(std::move(first));
}

void JoinClient::Stop() {
  std::shared_ptr<MessageSink<WorkerStatus>> sink;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    sink = std::move(sink_);
  }
  if (sink != nullptr) sink->Close(absl::CancelledError("the worker stops"));
}

}  // namespace quire
