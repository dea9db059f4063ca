#include "tests/simulation/network.h"

#include <utility>

namespace quire {

template <typename In, typename Out>
class SimSession::Sink final : public MessageSink<Out> {
 public:
  Sink(std::shared_ptr<SimSession> session, Lane<Out>* out, Lane<In>* in)
      : session_(std::move(session)), out_(out), in_(in) {}
  bool Write(Out message) override { return session_->Write(out_, in_, std::move(message)); }
  void Close(absl::Status status) override { session_->Close(out_, in_, status); }

 private:
  const std::shared_ptr<SimSession> session_;
  Lane<Out>* const out_;
  Lane<In>* const in_;
};

std::shared_ptr<MessageSink<SimSession::Request>> SimSession::Open(
    std::shared_ptr<MessageHandler<Event>> handler,
    std::function<std::shared_ptr<MessageHandler<Request>>(std::shared_ptr<MessageSink<Event>>)>
        connect) {
  auto sink =
      std::make_shared<Sink<Event, Request>>(shared_from_this(), &to_worker_, &to_coordinator_);
  if (connect == nullptr) {
    const absl::Status refused = absl::UnavailableError("connection refused");
    to_worker_.is_lost = true;
    if (random_->Chance(20)) {  // the transport may say so before it returns
      to_worker_.is_closed = true;
      handler->OnClosed(refused);
      return sink;
    }
    to_coordinator_.handler = std::move(handler);
    Tell(&to_coordinator_, &to_worker_, Arrival(&to_coordinator_), refused);
    return sink;
  }
  to_coordinator_.handler = std::move(handler);
  connecting_ = true;
  to_worker_.to->At(Arrival(&to_worker_), [self = shared_from_this(), connect] {
    if (!std::exchange(self->connecting_, false)) return;
    self->to_worker_.handler = connect(
        std::make_shared<Sink<Request, Event>>(self, &self->to_coordinator_, &self->to_worker_));
  });
  return sink;
}

template <typename T>
int64_t SimSession::Arrival(Lane<T>* lane) {
  return lane->last_arrival =
             std::max(lane->last_arrival, path_->Arrival(lane->to->now(), random_));
}

template <typename T>
void SimSession::Deliver(Lane<T>* lane) {
  if (lane->handler == nullptr || lane->num_arriving == 0) return;
  --lane->num_arriving;
  T message = std::move(lane->messages.front());
  lane->messages.pop_front();
  trace_->Note(lane->to->now(), lane->name, {static_cast<int64_t>(message.ByteSizeLong())});
  const std::shared_ptr<MessageHandler<T>> handler = lane->handler;
  handler->OnMessage(std::move(message));
}

template <typename In, typename Out>
bool SimSession::Write(Lane<Out>* out, Lane<In>* in, Out message) {
  if (out->is_closed) return false;
  if (out->messages.size() >= max_messages_) {
    Close(out, in,
          absl::ResourceExhaustedError(
              absl::StrCat("the peer did not read ", max_messages_, " messages")));
    return false;
  }
  out->messages.push_back(std::move(message));
  max_waiting_ = std::max(max_waiting_, out->messages.size());
  if (out->is_lost) return true;
  ++out->num_arriving;
  out->to->At(Arrival(out), [self = shared_from_this(), out] { self->Deliver(out); });
  return true;
}

template <typename In, typename Out>
void SimSession::Close(Lane<Out>* out, Lane<In>* in, const absl::Status& status) {
  if (std::exchange(out->is_closed, true)) return;
  const absl::Status told =
      status.ok() ? absl::UnavailableError("the peer ended the call") : status;
  if (!status.ok()) LoseMessages(out);
  if (!out->is_lost) Tell(out, in, Arrival(out), told);
  Tell(in, out, in->to->now(), told);
}

template <typename In, typename Out>
void SimSession::Tell(Lane<In>* in, Lane<Out>* out, int64_t at, const absl::Status& status) {
  in->to->At(at, [self = shared_from_this(), in, out, status] {
    out->is_closed = true;
    self->connecting_ = false;
    in->num_arriving = 0;
    in->messages.clear();
    const auto handler = std::exchange(in->handler, nullptr);
    if (handler == nullptr) return;
    self->trace_->Note(in->to->now(), "closed", {});
    handler->OnClosed(status);
  });
}

template <typename T>
void SimSession::LoseMessages(Lane<T>* lane) {
  lane->messages.clear();
  lane->num_arriving = 0;
}

void SimSession::Cut(int64_t coordinator_hears_at, int64_t worker_hears_at) {
  const absl::Status status = absl::UnavailableError("the connection was lost");
  to_coordinator_.is_lost = to_worker_.is_lost = true;
  // What is on its way may still arrive.
  if (random_->Chance(50)) LoseMessages(&to_coordinator_);
  if (random_->Chance(50)) LoseMessages(&to_worker_);
  Tell(&to_coordinator_, &to_worker_, coordinator_hears_at, status);
  Tell(&to_worker_, &to_coordinator_, worker_hears_at, status);
}

void SimSession::LoseCoordinator(int64_t worker_hears_at) {
  to_coordinator_.handler = nullptr;
  to_worker_.is_closed = to_coordinator_.is_lost = true;
  if (random_->Chance(50)) LoseMessages(&to_worker_);
  Tell(&to_worker_, &to_coordinator_, worker_hears_at,
       absl::UnavailableError("the connection was lost"));
}

void SimSession::LoseWorker(int64_t coordinator_hears_at) {
  connecting_ = false;
  to_worker_.handler = nullptr;
  to_coordinator_.is_closed = to_worker_.is_lost = true;
  if (random_->Chance(50)) LoseMessages(&to_coordinator_);
  Tell(&to_coordinator_, &to_worker_, coordinator_hears_at,
       absl::UnavailableError("the connection was lost"));
}

}  // namespace quire
