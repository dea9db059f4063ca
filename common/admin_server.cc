#include "common/admin_server.h"

#include <quire/admin/v1/admin.grpc.pb.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/keepalive.h"
#include "common/mutex.h"
#include "common/server_limits.h"
#include "common/steady_deadline.h"

namespace quire {

using admin::v1::DrainReport;
using admin::v1::DrainRequest;

namespace {

constexpr int kMaxCallsPerConnection = 16;
constexpr int kMaxMessageBytes = 4096;
constexpr int64_t kFinishMicros = 1'000'000;

}  // namespace

class AdminServer::Service final : public admin::v1::Admin::CallbackService {
 public:
  explicit Service(std::function<void()> on_drain) : on_drain_(std::move(on_drain)) {}

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext*, const DrainRequest* request,
                                  DrainReport* report) override {
    auto* call = new Call(this, report);
    bool is_first = false;
    bool is_over = false;
    {
      MutexLock lock(mutex_);
      if (report_.has_value()) {
        *report = *report_;
        is_over = true;
      } else {
        waiting_.insert(call);
        is_first = !std::exchange(was_asked_, true);
        if (is_first && request->has_timeout_ms()) {
          timeout_ = int64_t{request->timeout_ms()} * 1000;
        }
      }
    }
    if (is_over) call->Finish(grpc::Status::OK);
    if (is_first) on_drain_();
    return call;
  }

  std::optional<int64_t> DrainBegun() {
    MutexLock lock(mutex_);
    was_asked_ = true;
    return timeout_;
  }

  void FinishAll(const DrainReport& report) {
    std::set<Call*> calls;
    {
      MutexLock lock(mutex_);
      report_ = report;
      calls.swap(waiting_);
    }
    for (Call* call : calls) {
      *call->report = report;
      call->Finish(grpc::Status::OK);
    }
  }

  void AbortAll() {
    std::set<Call*> calls;
    {
      MutexLock lock(mutex_);
      calls.swap(waiting_);
    }
    for (Call* call : calls) {
      call->Finish({grpc::StatusCode::UNAVAILABLE, "the server ends without a report"});
    }
  }

 private:
  // A call that waits. Whoever takes it out of `waiting_` finishes it, without the lock: gRPC may
  // call back from inside Finish.
  struct Call final : public grpc::ServerUnaryReactor {
    Call(Service* s, DrainReport* r) : service(s), report(r) {}
    void OnCancel() override {
      {
        MutexLock lock(service->mutex_);
        if (service->waiting_.erase(this) == 0) return;
      }
      Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

    Service* const service;
    DrainReport* const report;
  };

  const std::function<void()> on_drain_;
  Mutex mutex_;
  std::set<Call*> waiting_ QUIRE_GUARDED_BY(mutex_);
  bool was_asked_ QUIRE_GUARDED_BY(mutex_) = false;
  std::optional<int64_t> timeout_ QUIRE_GUARDED_BY(mutex_);
  std::optional<DrainReport> report_ QUIRE_GUARDED_BY(mutex_);
};

AdminServer::AdminServer() = default;

AdminServer::~AdminServer() {
  service_->AbortAll();
  // Cancels what has come meanwhile.
  if (server_ != nullptr) server_->Shutdown(SteadyDeadline(0));
}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(
    const Address& listen, const std::shared_ptr<grpc::ServerCredentials>& credentials,
    std::function<void()> on_drain) {
  std::unique_ptr<AdminServer> admin(new AdminServer);
  admin->service_ = std::make_unique<Service>(std::move(on_drain));
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(listen.ToString(), credentials, &port);
  builder.RegisterService(admin->service_.get());
  SetLimits(&builder, kMaxCallsPerConnection, kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  SetKeepalive(&builder);
  admin->server_ = builder.BuildAndStart();
  if (admin->server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("--admin-address: cannot listen on ", listen.ToString()));
  }
  admin->address_ = Address{listen.host, static_cast<uint16_t>(port)}.ToString();
  return admin;
}

std::optional<int64_t> AdminServer::DrainBegun() { return service_->DrainBegun(); }

void AdminServer::Finish(const DrainReport& report) {
  service_->FinishAll(report);
  server_->Shutdown(SteadyDeadline(kFinishMicros));
}

}  // namespace quire
