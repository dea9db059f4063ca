#include "coordinator/registry/registry_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/grpc_stream.h"

namespace quire {
namespace {

using worker::v1::JoinReply;
using worker::v1::WorkerStatus;

constexpr size_t kMaxReplies = 16;

// The first message announces the worker; what follows keeps the announcement fresh, for a worker
// that was forgotten meanwhile. Its load, and that it drains, are told by its session.
class JoinHandler final : public MessageHandler<WorkerStatus> {
 public:
  JoinHandler(WorkerRegistry* registry, std::string coordinator_id,
              std::shared_ptr<MessageSink<JoinReply>> sink)
      : registry_(registry), coordinator_id_(std::move(coordinator_id)), sink_(std::move(sink)) {}

  void OnMessage(WorkerStatus status) override {
    if (!announced_) {
      if (const auto parsed = ParseAddress(status.address()); !parsed.ok()) {
        return sink_->Close(absl::InvalidArgumentError(
            absl::StrCat("WorkerStatus.address: ", parsed.status().message())));
      }
      if (status.incarnation().empty() || status.worker().name().empty()) {
        return sink_->Close(absl::InvalidArgumentError(
            "WorkerStatus: the first message needs address, incarnation and worker.name"));
      }
      announced_ = true;
      announcement_ = std::move(status);
    }
    const absl::Status joined = registry_->Join(
        announcement_.address(), announcement_.incarnation(), announcement_.worker());
    const std::string refused(joined.message());
    if (replied_ && refused == refused_) return;
    replied_ = true;
    refused_ = refused;
    JoinReply reply;
    reply.set_coordinator_id(coordinator_id_);
    reply.set_refused(refused);
    sink_->Write(std::move(reply));
  }
  void OnClosed(const absl::Status&) override {}

 private:
  WorkerRegistry* const registry_;
  const std::string coordinator_id_;
  const std::shared_ptr<MessageSink<JoinReply>> sink_;
  WorkerStatus announcement_;
  bool announced_ = false;
  bool replied_ = false;
  std::string refused_;  // as the last reply said
};

}  // namespace

std::unique_ptr<MessageHandler<WorkerStatus>> MakeJoinHandler(
    WorkerRegistry* registry, const std::string& coordinator_id,
    std::shared_ptr<MessageSink<JoinReply>> sink) {
  return std::make_unique<JoinHandler>(registry, coordinator_id, std::move(sink));
}

RegistryService::RegistryService(WorkerRegistry* registry, std::string coordinator_id)
    : registry_(registry), coordinator_id_(std::move(coordinator_id)) {}

grpc::ServerBidiReactor<WorkerStatus, JoinReply>* RegistryService::Join(
    grpc::CallbackServerContext* context) {
  return new GrpcServerStream<WorkerStatus, JoinReply>(
      context, {.max_messages = kMaxReplies}, [this](std::shared_ptr<MessageSink<JoinReply>> sink) {
        {
          MutexLock lock(mutex_);
          std::erase_if(joins_, [](const auto& join) { return join.expired(); });
          joins_.push_back(sink);
        }
        return MakeJoinHandler(registry_, coordinator_id_, std::move(sink));
      });
}

void RegistryService::CloseJoins() {
  std::vector<std::weak_ptr<MessageSink<JoinReply>>> joins;
  {
    MutexLock lock(mutex_);
    joins.swap(joins_);
  }
  for (const auto& join : joins) {
    if (const auto sink = join.lock()) sink->Close(absl::OkStatus());
  }
}

}  // namespace quire
