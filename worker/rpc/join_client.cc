#include "worker/rpc/join_client.h"

#include <atomic>
#include <optional>
#include <utility>

#include <grpcpp/grpcpp.h>
#include "absl/strings/str_cat.h"
#include "common/channel.h"
#include "common/clock.h"
#include "common/grpc_stream.h"
#include "common/join_token.h"
#include "common/keepalive.h"
#include "common/logging.h"

namespace quire {

using worker::v1::JoinReply;
using worker::v1::WorkerStatus;

namespace {
// Failures of two kinds that take turns are not logged more often.
constexpr int64_t kReportIntervalMicros = 10'000'000;
}  // namespace

// How many calls there are, those included that have ended and that gRPC still holds.
struct JoinClient::Calls {
  Mutex mutex;
  CondVar none_left;
  size_t num_live QUIRE_GUARDED_BY(mutex) = 0;
};

// Hears what a coordinator answers.
class JoinClient::Call final : public MessageHandler<JoinReply> {
 public:
  Call(std::string coordinator, std::shared_ptr<Calls> calls)
      : coordinator_(std::move(coordinator)), calls_(std::move(calls)) {
    MutexLock lock(calls_->mutex);
    ++calls_->num_live;
  }
  ~Call() override {
    MutexLock lock(calls_->mutex);
    if (--calls_->num_live == 0) calls_->none_left.NotifyAll();
  }
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
    MutexLock lock(mutex_);
    end_ = status;
  }
  // How the call ended; nothing while it lives.
  std::optional<absl::Status> end() const {
    MutexLock lock(mutex_);
    return end_;
  }
  // Whether the coordinator said something.
  bool greeted() const { return greeted_.load(); }

 private:
  const std::string coordinator_;
  const std::shared_ptr<Calls> calls_;
  std::atomic<bool> greeted_{false};
  mutable Mutex mutex_;
  std::optional<absl::Status> end_ QUIRE_GUARDED_BY(mutex_);
};

JoinClient::JoinClient(const std::string& coordinator, WorkerStatus announcement,
                       const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                       std::string join_token)
    : coordinator_(coordinator),
      announcement_(std::move(announcement)),
      join_token_(std::move(join_token)),
      calls_(std::make_shared<Calls>()) {
  grpc::ChannelArguments arguments;
  SetReconnect(&arguments, /*max_pause_ms=*/400);
  SetKeepalive(&arguments);
  channel_ = NewChannel(coordinator, credentials, arguments);
  stub_ = worker::v1::Registry::NewStub(channel_);
}

JoinClient::~JoinClient() { Stop(); }

void JoinClient::Tick(const worker::v1::Load& load, bool draining) {
  MutexLock lock(mutex_);
  if (stopped_) return;
  const std::optional<absl::Status> end = call_ == nullptr ? std::nullopt : call_->end();
  if (call_ != nullptr && call_->greeted()) reported_failure_.clear();
  if (end.has_value() && !call_->greeted()) ReportFailure(*end);
  if (call_ != nullptr && !end.has_value()) {
    WorkerStatus status;
    *status.mutable_load() = load;
    status.set_draining(draining);
    sink_->Write(std::move(status));
    return;
  }
  ConnectNow(channel_.get());
  call_ = std::make_shared<Call>(coordinator_, calls_);
  sink_ = GrpcClientStream<WorkerStatus, JoinReply>::Start(
      {.max_messages = 16}, call_, [this](grpc::ClientContext* context, auto* reactor) {
        if (!join_token_.empty()) context->AddMetadata(kJoinTokenMetadata, join_token_);
        stub_->async()->Join(context, reactor);
      });
  WorkerStatus first = announcement_;
  *first.mutable_load() = load;
  first.set_draining(draining);
  sink_->Write(std::move(first));
}

void JoinClient::ReportFailure(const absl::Status& status) {
  const std::string why = status.ToString();
  const int64_t now = SteadyMicros();
  if (why == reported_failure_ || (!reported_failure_.empty() && now < report_from_)) return;
  reported_failure_ = why;
  report_from_ = now + kReportIntervalMicros;
  LogWarning(absl::StrCat("cannot join coordinator ", coordinator_, ", and goes on trying: ", why));
}

void JoinClient::Stop() {
  std::shared_ptr<MessageSink<WorkerStatus>> sink;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    sink = std::move(sink_);
    call_.reset();
  }
  if (sink != nullptr) sink->Close(absl::CancelledError("the worker stops"));
  MutexLock lock(calls_->mutex);
  while (calls_->num_live > 0) calls_->none_left.Wait(calls_->mutex);
}

}  // namespace quire
