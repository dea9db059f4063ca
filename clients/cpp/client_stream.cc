#include "clients/cpp/client_stream.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"

namespace quire {
namespace {

// gRPC's monotonic time, `wait` from now.
gpr_timespec After(std::chrono::microseconds wait) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_micros(wait.count(), GPR_TIMESPAN));
}

}  // namespace

// One connection of the call. Deletes itself when it is over.
class ClientStream::Connection final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Connection(std::shared_ptr<ClientStream> call, std::shared_ptr<LeasedContext> context,
             v1::GenerateRequest request)
      : call_(std::move(call)), context_(std::move(context)), request_(std::move(request)) {}

  void Start(v1::Inference::Stub& stub) {
    stub.async()->Generate(&context_->context, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    broken_ = call_->HandleEvent(&event_);
    if (!broken_.ok()) {
      context_->context.TryCancel();
      return;
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<ClientStream> call = std::move(call_);
    absl::Status result = broken_.ok() ? StatusOfCall(status) : std::move(broken_);
    delete this;
    call->HandleConnectionEnd(std::move(result));
  }

 private:
  std::shared_ptr<ClientStream> call_;
  const std::shared_ptr<LeasedContext> context_;
  const v1::GenerateRequest request_;
  v1::GenerateEvent event_;
  absl::Status broken_;
};

ClientStream::ClientStream(Targets* targets, const RetryOptions& retry, v1::GenerateRequest request,
                           std::optional<std::chrono::milliseconds> timeout,
                           GenerateHandler* handler)
    : targets_(targets),
      request_(std::move(request)),
      timeout_(timeout),
      cancel_grace_(retry.cancel_grace),
      handler_(handler),
      started_micros_(SteadyMicros()),
      policy_(retry, targets_->size()),
      progress_(request_.resume()),
      target_(targets_->preferred()) {}

void ClientStream::Start() { Connect(); }

int64_t ClientStream::deadline() const {
  int64_t deadline = std::numeric_limits<int64_t>::max();
  if (timeout_.has_value())
    deadline = started_micros_ + std::chrono::microseconds(*timeout_).count();
  if (request_.has_timeout_ms()) {
    deadline = std::min(deadline, started_micros_ + int64_t{request_.timeout_ms()} * 1000);
  }
  return deadline;
}

v1::GenerateRequest ClientStream::RequestForNow() const {
  v1::GenerateRequest request = request_;
  if (progress_.started()) *request.mutable_resume() = progress_.resume();
  if (request.has_timeout_ms()) {  // counts from the beginning, not from here
    const int64_t elapsed_ms = (SteadyMicros() - started_micros_) / 1000;
    request.set_timeout_ms(std::max<int64_t>(1, request.timeout_ms() - elapsed_ms));
  }
  return request;
}

void ClientStream::Connect() {
  auto context = std::make_shared<LeasedContext>(targets_);
  if (timeout_.has_value()) {
    // Not timeout_ms as well: the server ends that itself, and says where the request was.
    context->context.set_deadline(
        After(std::chrono::microseconds(*timeout_) -
              std::chrono::microseconds(SteadyMicros() - started_micros_)));
  }
  size_t target = 0;
  {
    MutexLock lock(mutex_);
    retry_timer_.reset();
    if (!cancelled_) {
      context_ = context;
      can_cancel_gently_ = false;
      target = target_;
    } else {
      context = nullptr;
    }
  }
  if (context == nullptr) {
    End(absl::CancelledError("cancelled by the client"));
    return;
  }
  progress_.BeginConnection();
  (new Connection(shared_from_this(), std::move(context), RequestForNow()))
      ->Start(targets_->stub(target));
}

absl::Status ClientStream::HandleEvent(v1::GenerateEvent* event) {
  const absl::StatusOr<bool> is_new = progress_.Accept(event);
  if (!is_new.ok()) return is_new.status();
  if (event->has_accepted()) {
    MutexLock lock(mutex_);
    can_cancel_gently_ = true;
    targets_->Prefer(target_);
  }
  if (*is_new) Deliver(*event);
  return absl::OkStatus();
}

void ClientStream::Deliver(const v1::GenerateEvent& event) {
  switch (event.event_case()) {
    case v1::GenerateEvent::kAccepted:
      return handler_->OnAccepted(event.accepted());
    case v1::GenerateEvent::kDelta:
      return handler_->OnDelta(event.delta());
    case v1::GenerateEvent::kNotice:
      return handler_->OnNotice(event.notice());
    case v1::GenerateEvent::kFinished:
      return handler_->OnFinished(event.finished());
    case v1::GenerateEvent::EVENT_NOT_SET:
      return;
  }
}

void ClientStream::HandleConnectionEnd(absl::Status status) {
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    context_.reset();
    cancelled = cancelled_;
  }
  if (progress_.complete()) return End(absl::OkStatus());
  if (status.ok()) {
    return End(absl::DataLossError("the stream ended before every choice had finished"));
  }
  if (cancelled) {
    // An end without words is that of this side's own cancellation.
    return End(absl::IsCancelled(status) ? status
                                         : absl::CancelledError("cancelled by the client"));
  }
  // Streams of the other engines do not move: their tokens depend on more than the request.
  const bool can_resume = request_.engine() == v1::ENGINE_UNSPECIFIED ||
                          request_.engine() == v1::PAGED || progress_.num_new_tokens() == 0;
  const auto wait = policy_.AfterLoss(status, progress_.num_new_tokens());
  if (!can_resume || !wait.has_value()) return End(std::move(status));
  Reconnect(status, *wait);
}

void ClientStream::Reconnect(const absl::Status& why, std::chrono::milliseconds wait) {
  if (SteadyMicros() + std::chrono::microseconds(wait).count() >= deadline()) {
    return End(absl::DeadlineExceededError(
        absl::StrCat("no time left to connect again after: ", why.message())));
  }
  size_t target = 0;
  {
    MutexLock lock(mutex_);
    target_ = (target_ + 1) % targets_->size();
    target = target_;
  }
  handler_->OnReconnect(why, targets_->name(target));
  if (wait.count() == 0) return Connect();
  MutexLock lock(mutex_);
  retry_timer_ = std::make_unique<grpc::Alarm>();
  // Runs at once where Cancel came first: Connect sees that.
  retry_timer_->Set(cancelled_ ? After(std::chrono::microseconds(0)) : After(wait),
                    [self = shared_from_this()](bool) { self->Connect(); });
}

void ClientStream::Cancel() {
  std::shared_ptr<LeasedContext> context;
  size_t target = 0;
  bool gently = false;
  {
    MutexLock lock(mutex_);
    if (result_.has_value()) return;
    gently = !std::exchange(cancelled_, true) && can_cancel_gently_;
    if (retry_timer_ != nullptr) retry_timer_->Cancel();
    context = context_;
    target = target_;
    if (context != nullptr && gently) {
      cancel_timer_ = std::make_unique<grpc::Alarm>();
      cancel_timer_->Set(After(cancel_grace_), [context](bool) { context->context.TryCancel(); });
    }
  }
  if (context == nullptr) return;
  gently ? AskToCancel(std::move(context), target) : context->context.TryCancel();
}

void ClientStream::AskToCancel(std::shared_ptr<LeasedContext> context, size_t target) {
  struct Ask : LeasedContext {
    using LeasedContext::LeasedContext;
    v1::CancelRequest request;
    v1::CancelResponse response;
  };
  auto ask = std::make_shared<Ask>(targets_);
  ask->request.set_request_id(request_id());
  ask->request.set_tenant(request_.tenant());
  ask->context.set_deadline(After(cancel_grace_));
  targets_->stub(target).async()->Cancel(
      &ask->context, &ask->request, &ask->response,
      [ask, context = std::move(context)](const grpc::Status& status) {
        if (!status.ok() || !ask->response.found()) context->context.TryCancel();
      });
}

void ClientStream::End(absl::Status status) {
  std::unique_ptr<grpc::Alarm> cancel_timer;
  {
    MutexLock lock(mutex_);
    cancel_timer = std::move(cancel_timer_);
  }
  cancel_timer.reset();
  for (const v1::Finished& finished : progress_.TakeAborted()) handler_->OnFinished(finished);
  handler_->OnEnd(status);
  MutexLock lock(mutex_);
  result_ = std::move(status);
  ended_.NotifyAll();
}

absl::Status ClientStream::Wait() {
  MutexLock lock(mutex_);
  while (!result_.has_value()) ended_.Wait(mutex_);
  return *result_;
}

}  // namespace quire
