#include "coordinator/registry/registry_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/grpc_stream.h"
#include "common/join_token.h"
#include "common/logging.h"
#include "common/worker_identity.h"

namespace quire {
namespace {

using worker::v1::JoinReply;
using worker::v1::WorkerStatus;

constexpr size_t kMaxReplies = 16;
// A worker without the token tries four times a second: not all of it goes to the log.
constexpr int64_t kWarningIntervalMicros = 10'000'000;

// The first message announces the worker; what follows keeps the announcement fresh, for a worker
// that was forgotten meanwhile. Its load, and that it drains, are told by its session.
class JoinHandler final : public MessageHandler<WorkerStatus> {
 public:
  JoinHandler(WorkerRegistry* registry, std::string coordinator_id,
              std::shared_ptr<MessageSink<JoinReply>> sink)
      : registry_(registry), coordinator_id_(std::move(coordinator_id)), sink_(std::move(sink)) {}

  void OnMessage(WorkerStatus status) override {
    if (!announced_) {
      if (absl::Status checked = CheckAnnounced(status); !checked.ok()) {
        return sink_->Close(std::move(checked));
      }
      announced_ = true;
      address_ = status.address();
      incarnation_ = status.incarnation();
      name_ = status.worker().name();
    }
    const absl::Status joined = registry_->Join(address_, incarnation_, name_);
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
  bool announced_ = false;
  std::string address_;
  std::string incarnation_;
  std::string name_;
  bool replied_ = false;
  std::string refused_;  // as the last reply said
};

// A Join that ends at once. Deletes itself.
class RefusedJoin final : public grpc::ServerBidiReactor<WorkerStatus, JoinReply> {
 public:
  explicit RefusedJoin(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

std::unique_ptr<MessageHandler<WorkerStatus>> MakeJoinHandler(
    WorkerRegistry* registry, const std::string& coordinator_id,
    std::shared_ptr<MessageSink<JoinReply>> sink) {
  return std::make_unique<JoinHandler>(registry, coordinator_id, std::move(sink));
}

RegistryService::RegistryService(WorkerRegistry* registry, std::string coordinator_id,
                                 std::string join_token)
    : registry_(registry),
      coordinator_id_(std::move(coordinator_id)),
      join_token_(std::move(join_token)) {}

absl::Status RegistryService::CheckToken(const grpc::CallbackServerContext& context) const {
  if (join_token_.empty()) return absl::OkStatus();
  const auto sent = context.client_metadata().find(kJoinTokenMetadata);
  if (sent == context.client_metadata().end()) {
    return absl::PermissionDeniedError(
        "the coordinator has a --join-token-file and the worker sent no token");
  }
  if (!SameSecret({sent->second.data(), sent->second.size()}, join_token_)) {
    return absl::PermissionDeniedError(
        "the coordinator has a --join-token-file and the worker sent another token");
  }
  return absl::OkStatus();
}

grpc::ServerBidiReactor<WorkerStatus, JoinReply>* RegistryService::Join(
    grpc::CallbackServerContext* context) {
  if (const absl::Status allowed = CheckToken(*context); !allowed.ok()) {
    const int64_t now = SteadyMicros();
    int64_t from = warn_of_refusals_from_.load();
    if (now >= from &&
        warn_of_refusals_from_.compare_exchange_strong(from, now + kWarningIntervalMicros)) {
      LogWarning(absl::StrCat("refuses a worker at ", context->peer(), ": ", allowed.message()));
    }
    return new RefusedJoin(allowed);
  }
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
