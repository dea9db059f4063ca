#ifndef QUIRE_TESTS_FAKES_IN_PROCESS_STREAM_H_
#define QUIRE_TESTS_FAKES_IN_PROCESS_STREAM_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/message_stream.h"
#include "common/mutex.h"

namespace quire {

// A bidirectional call without gRPC: what a client writes reaches a server's handler and the other
// way round, each handler on a thread of its own, so that ThreadSanitizer sees what the real
// transport does. Bounds, ends and order are those of common/grpc_stream.h. Thread safe.
template <typename Request, typename Event>
class InProcessStream {
 public:
  // The server's end: gets the sink for its events, gives the handler of the requests.
  using Connect =
      std::function<std::unique_ptr<MessageHandler<Request>>(std::shared_ptr<MessageSink<Event>>)>;

  // Each side may have `max_messages` that the other has not yet taken.
  InProcessStream(std::shared_ptr<MessageHandler<Event>> client, const Connect& connect,
                  size_t max_messages = 4096)
      : call_(std::make_shared<Call>(max_messages)),
        client_(std::move(client)),
        server_(connect(std::make_shared<Sink<Event>>(call_, &call_->to_client))),
        client_thread_([this] { Deliver(call_->to_client, *client_); }),
        server_thread_([this] { Deliver(call_->to_server, *server_); }) {}
  // Cuts the call and returns when both handlers have heard OnClosed. Not from within a handler.
  ~InProcessStream() {
    Cut();
    client_thread_.join();
    server_thread_.join();
  }
  InProcessStream(const InProcessStream&) = delete;
  InProcessStream& operator=(const InProcessStream&) = delete;

  std::shared_ptr<MessageSink<Request>> client_sink() {
    return std::make_shared<Sink<Request>>(call_, &call_->to_server);
  }

  // The network fails: messages on their way are lost, and both ends hear UNAVAILABLE.
  void Cut() { call_->End(absl::UnavailableError("the connection was lost")); }

  // The client stops reading, or goes on.
  void SetClientReads(bool reads) {
    MutexLock lock(call_->mutex);
    call_->to_client.reads = reads;
    call_->changed.NotifyAll();
  }
  // The server, likewise.
  void SetServerReads(bool reads) {
    MutexLock lock(call_->mutex);
    call_->to_server.reads = reads;
    call_->changed.NotifyAll();
  }

 private:
  // One direction. Guarded by the call's mutex.
  template <typename T>
  struct Lane {
    std::deque<T> messages;
    bool reads = true;
  };

  struct Call {
    explicit Call(size_t max) : max_messages(max) {}

    // The first end counts. Messages on their way still arrive where it is an orderly one.
    void End(absl::Status status) {
      MutexLock lock(mutex);
      if (!ended.has_value()) ended = std::move(status);
      changed.NotifyAll();
    }

    const size_t max_messages;
    Mutex mutex;
    CondVar changed;
    Lane<Request> to_server QUIRE_GUARDED_BY(mutex);
    Lane<Event> to_client QUIRE_GUARDED_BY(mutex);
    std::optional<absl::Status> ended QUIRE_GUARDED_BY(mutex);
  };

  template <typename T>
  class Sink final : public MessageSink<T> {
   public:
    Sink(std::shared_ptr<Call> call, Lane<T>* lane) : call_(std::move(call)), lane_(lane) {}
    bool Write(T message) override {
      {
        MutexLock lock(call_->mutex);
        if (call_->ended.has_value()) return false;
        if (lane_->messages.size() < call_->max_messages) {
          lane_->messages.push_back(std::move(message));
          call_->changed.NotifyAll();
          return true;
        }
      }
      call_->End(absl::ResourceExhaustedError(
          absl::StrCat("the peer did not read ", call_->max_messages, " messages")));
      return false;
    }
    void Close(absl::Status status) override { call_->End(std::move(status)); }

   private:
    const std::shared_ptr<Call> call_;
    Lane<T>* const lane_;  // the call's
  };

  // Hands messages to a handler until the call is over.
  template <typename T>
  void Deliver(Lane<T>& lane, MessageHandler<T>& handler) {
    while (std::optional<T> message = Next(lane)) handler.OnMessage(*std::move(message));
    const absl::Status status = EndOfCall();
    handler.OnClosed(status.ok() ? absl::UnavailableError("the peer ended the call") : status);
  }
  // Waits for a message. Nothing: the call is over.
  template <typename T>
  std::optional<T> Next(Lane<T>& lane) {
    Call& call = *call_;
    MutexLock lock(call.mutex);
    while (!call.ended.has_value() && (lane.messages.empty() || !lane.reads)) {
      call.changed.Wait(call.mutex);
    }
    if (lane.messages.empty() || (call.ended.has_value() && !call.ended->ok())) return std::nullopt;
    std::optional<T> message = std::move(lane.messages.front());
    lane.messages.pop_front();
    return message;
  }
  absl::Status EndOfCall() {
    MutexLock lock(call_->mutex);
    return *call_->ended;
  }

  const std::shared_ptr<Call> call_;
  const std::shared_ptr<MessageHandler<Event>> client_;
  const std::unique_ptr<MessageHandler<Request>> server_;
  std::thread client_thread_;
  std::thread server_thread_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_IN_PROCESS_STREAM_H_
