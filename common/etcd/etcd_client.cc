#include "common/etcd/etcd_client.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include <set>
#include <utility>

#include "common/channel.h"
#include "common/grpc_stream.h"
#include "common/keepalive.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/steady_deadline.h"

namespace quire {

using etcdserverpb::LeaseKeepAliveRequest;
using etcdserverpb::LeaseKeepAliveResponse;
using etcdserverpb::WatchRequest;
using etcdserverpb::WatchResponse;

namespace {

// A page of a Range and a fragment of a watch are far below it, whatever values they hold.
constexpr int kMaxMessageBytes = 64 << 20;
constexpr size_t kMaxWatchRequests = 4;

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(SteadyDeadline(EtcdApi::kCallSeconds * int64_t{1'000'000}));
}

}  // namespace

// The calls that gRPC holds.
class EtcdClient::Calls {
 public:
  // False: no call is to be made any more.
  bool Add(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    if (shut_down_) return false;
    contexts_.insert(context);
    ++num_live_;
    return true;
  }
  // The call cannot be cancelled any more, but is still counted.
  void Forget(grpc::ClientContext* context) {
    MutexLock lock(mutex_);
    contexts_.erase(context);
  }
  // Nothing of the call is left.
  void Release() {
    MutexLock lock(mutex_);
    if (--num_live_ == 0) none_left_.NotifyAll();
  }
  void CancelAll() {
    MutexLock lock(mutex_);
    shut_down_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
    while (num_live_ > 0) none_left_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar none_left_;
  bool shut_down_ QUIRE_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ QUIRE_GUARDED_BY(mutex_);
  size_t num_live_ QUIRE_GUARDED_BY(mutex_) = 0;
};

// A LeaseKeepAlive stream of one request and its answer. Deletes itself.
class EtcdClient::KeepAliveCall final
    : public grpc::ClientBidiReactor<LeaseKeepAliveRequest, LeaseKeepAliveResponse> {
 public:
  KeepAliveCall(const LeaseKeepAliveRequest& request, Done<LeaseKeepAliveResponse> done,
                std::shared_ptr<Calls> calls)
      : calls_(std::move(calls)), done_(std::move(done)), request_(request) {}
  void Start(etcdserverpb::Lease::Stub* stub) {
    SetDeadline(&context_);
    if (!calls_->Add(&context_)) {
      delete this;
      return;
    }
    stub->async()->LeaseKeepAlive(&context_, this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override { answered_ = ok; }
  void OnDone(const grpc::Status& status) override {
    calls_->Forget(&context_);
    if (answered_) {
      done_(std::move(response_));
    } else if (status.ok()) {
      done_(absl::UnavailableError("etcd ended the call without an answer"));
    } else {
      done_(FromGrpc(status));
    }
    const std::shared_ptr<Calls> calls = calls_;
    delete this;
    calls->Release();
  }

 private:
  const std::shared_ptr<Calls> calls_;
  const Done<LeaseKeepAliveResponse> done_;
  const LeaseKeepAliveRequest request_;
  grpc::ClientContext context_;
  LeaseKeepAliveResponse response_;
  bool answered_ = false;
};

// Counts a watch until gRPC has let go of it.
class EtcdClient::WatchHandler final : public MessageHandler<WatchResponse> {
 public:
  WatchHandler(std::shared_ptr<MessageHandler<WatchResponse>> handler, std::shared_ptr<Calls> calls)
      : handler_(std::move(handler)), calls_(std::move(calls)) {}
  ~WatchHandler() override {
    if (context_ != nullptr) calls_->Release();
  }
  bool Begin(grpc::ClientContext* context) {
    if (!calls_->Add(context)) return false;
    context_ = context;
    return true;
  }
  void OnMessage(WatchResponse response) override { handler_->OnMessage(std::move(response)); }
  void OnClosed(const absl::Status& status) override {
    if (context_ == nullptr) return;
    calls_->Forget(context_);
    handler_->OnClosed(status);
    handler_.reset();  // before the watch counts as gone
  }

 private:
  std::shared_ptr<MessageHandler<WatchResponse>> handler_;
  const std::shared_ptr<Calls> calls_;
  grpc::ClientContext* context_ = nullptr;
};

EtcdClient::EtcdClient(const std::vector<std::string>& endpoints,
                       const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : calls_(std::make_shared<Calls>()) {
  for (const std::string& endpoint : endpoints) {
    grpc::ChannelArguments arguments;
    SetReconnect(&arguments, /*max_pause_ms=*/1000);
    SetKeepalive(&arguments);
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    const auto channel = NewChannel(endpoint, credentials, arguments);
    members_.push_back({endpoint, channel, etcdserverpb::KV::NewStub(channel),
                        etcdserverpb::Lease::NewStub(channel),
                        etcdserverpb::Watch::NewStub(channel)});
  }
}

const EtcdClient::Member& EtcdClient::Connected() const {
  const Member& member = Current();
  ConnectNow(member.channel.get());
  return member;
}

template <typename Request, typename Response, typename Start>
void EtcdClient::Call(const Request& request, Done<Response> done, Start start) {
  struct State {
    grpc::ClientContext context;
    Request request;
    Response response;
    Done<Response> done;
  };
  auto state = std::make_shared<State>();
  state->request = request;
  state->done = std::move(done);
  SetDeadline(&state->context);
  if (!calls_->Add(&state->context)) return;
  start(Connected(), &state->context, &state->request, &state->response,
        [state, calls = calls_](const grpc::Status& status) mutable {
          calls->Forget(&state->context);
          if (status.ok()) {
            state->done(std::move(state->response));
          } else {
            state->done(FromGrpc(status));
          }
          state.reset();  // with its hold on the channel
          calls->Release();
        });
}

void EtcdClient::Range(const etcdserverpb::RangeRequest& request,
                       Done<etcdserverpb::RangeResponse> done) {
  Call(request, std::move(done),
       [](const Member& member, auto... arguments) { member.kv->async()->Range(arguments...); });
}

void EtcdClient::Put(const etcdserverpb::PutRequest& request,
                     Done<etcdserverpb::PutResponse> done) {
  Call(request, std::move(done),
       [](const Member& member, auto... arguments) { member.kv->async()->Put(arguments...); });
}

void EtcdClient::Grant(const etcdserverpb::LeaseGrantRequest& request,
                       Done<etcdserverpb::LeaseGrantResponse> done) {
  Call(request, std::move(done), [](const Member& member, auto... arguments) {
    member.lease->async()->LeaseGrant(arguments...);
  });
}

void EtcdClient::Revoke(const etcdserverpb::LeaseRevokeRequest& request,
                        Done<etcdserverpb::LeaseRevokeResponse> done) {
  Call(request, std::move(done), [](const Member& member, auto... arguments) {
    member.lease->async()->LeaseRevoke(arguments...);
  });
}

void EtcdClient::KeepAlive(const LeaseKeepAliveRequest& request,
                           Done<LeaseKeepAliveResponse> done) {
  (new KeepAliveCall(request, std::move(done), calls_))->Start(Connected().lease.get());
}

std::shared_ptr<MessageSink<WatchRequest>> EtcdClient::Watch(
    std::shared_ptr<MessageHandler<WatchResponse>> handler) {
  auto counted = std::make_shared<WatchHandler>(std::move(handler), calls_);
  return GrpcClientStream<WatchRequest, WatchResponse>::Start(
      {.max_messages = kMaxWatchRequests}, counted,
      [this, &counted](grpc::ClientContext* context, auto* reactor) {
        // A member that loses its leader ends the watch, rather than leave it silent.
        context->AddMetadata("hasleader", "true");
        if (!counted->Begin(context)) context->TryCancel();
        Connected().watch->async()->Watch(context, reactor);
      });
}

void EtcdClient::Shutdown() { calls_->CancelAll(); }

}  // namespace quire
