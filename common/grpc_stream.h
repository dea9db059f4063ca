#ifndef QUIRE_COMMON_GRPC_STREAM_H_
#define QUIRE_COMMON_GRPC_STREAM_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/message_stream.h"
#include "common/mutex.h"
#include "common/rpc_status.h"

// MessageSink and MessageHandler over gRPC's callback API, for either end of a bidirectional call.
//
// gRPC may call OnWriteDone from inside StartWrite, so operations start outside the lock;
// `writing_` is set before the lock is dropped, and nothing ends the call while it is set.
namespace quire {

// What both ends share: a bounded queue of messages with one write in flight. Start* are called
// without the lock.
template <typename Out>
class GrpcOutbox : public MessageSink<Out> {
 public:
  explicit GrpcOutbox(size_t max_messages) : max_messages_(max_messages) {}

  bool Write(Out message) override {
    {
      MutexLock lock(mutex_);
      if (closing_.has_value()) return false;
      if (queue_.size() >= max_messages_) {
        closing_ = absl::ResourceExhaustedError(
            absl::StrCat("the peer did not read ", max_messages_, " messages"));
        drop_queue_ = true;
        if (writing_) {
          interrupting_ = true;
        } else {
          ended_ = true;
        }
      } else {
        queue_.push_back(std::move(message));
        if (writing_) return true;
        writing_ = start_write_ = true;
      }
    }
    InterruptWrite();
    Advance();
    return !WasEnded();
  }

  void Close(absl::Status status) override {
    {
      MutexLock lock(mutex_);
      if (closing_.has_value()) return;
      drop_queue_ = !status.ok();
      closing_ = std::move(status);
      if (!writing_) {
        ended_ = true;
      } else if (drop_queue_) {
        interrupting_ = true;
      } else {
        return;
      }
    }
    InterruptWrite();
    Advance();
  }

  // The write in flight is over.
  void WriteDone(bool ok) {
    {
      MutexLock lock(mutex_);
      queue_.pop_front();
      if (!ok && !closing_.has_value()) {
        closing_ = absl::UnavailableError("the connection was lost");
        drop_queue_ = true;
      }
      if (closing_.has_value() && (drop_queue_ || queue_.empty())) {
        queue_.clear();
        writing_ = false;
        ended_ = true;
      } else if (queue_.empty()) {
        writing_ = false;
        return;
      } else {
        start_write_ = true;
      }
    }
    Advance();
  }

 protected:
  virtual void StartNext(const Out& message) = 0;
  // Makes a write in flight end soon, though the peer does not read. The call is alive.
  virtual void Interrupt() {}
  // Called once; no StartNext follows.
  virtual void StartEnd(const absl::Status& status) = 0;

 private:
  // Keeps the end from being started while the call is interrupted.
  void InterruptWrite() {
    {
      MutexLock lock(mutex_);
      if (!interrupting_) return;
    }
    Interrupt();
    MutexLock lock(mutex_);
    interrupting_ = false;
  }
  // Starts what the state says is due: the end, or the write of the first message.
  void Advance() {
    const Out* next = nullptr;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (interrupting_) return;  // whoever interrupts comes here next
      if (ended_) {
        if (std::exchange(end_started_, true)) return;
        status = *closing_;
      } else if (std::exchange(start_write_, false)) {
        next = &queue_.front();
      } else {
        return;  // a write is in flight
      }
    }
    next != nullptr ? StartNext(*next) : StartEnd(status);
  }
  bool WasEnded() {
    MutexLock lock(mutex_);
    return closing_.has_value();
  }

  const size_t max_messages_;
  Mutex mutex_;
  std::deque<Out> queue_ QUIRE_GUARDED_BY(mutex_);  // the first is being written while writing_
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> closing_ QUIRE_GUARDED_BY(mutex_);
  bool drop_queue_ QUIRE_GUARDED_BY(mutex_) = false;
  bool start_write_ QUIRE_GUARDED_BY(mutex_) = false;  // the first message's write is due
  bool interrupting_ QUIRE_GUARDED_BY(mutex_) = false;
  bool ended_ QUIRE_GUARDED_BY(mutex_) = false;
  bool end_started_ QUIRE_GUARDED_BY(mutex_) = false;
};

// The server's end. Made by the service's method; deletes itself.
template <typename In, typename Out>
class GrpcServerStream final : public grpc::ServerBidiReactor<In, Out> {
 public:
  // `connect` gets the sink and gives the handler.
  template <typename Connect>
  GrpcServerStream(size_t max_messages, Connect connect)
      : outbox_(std::make_shared<Outbox>(max_messages, this)), handler_(connect(outbox_)) {
    this->StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      outbox_->Close(absl::OkStatus());
      return;
    }
    handler_->OnMessage(std::move(incoming_));
    incoming_.Clear();
    this->StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override { outbox_->WriteDone(ok); }
  void OnCancel() override { outbox_->Close(absl::CancelledError("the peer cancelled")); }
  void OnDone() override {
    outbox_->Close(absl::CancelledError("the call is over"));
    handler_->OnClosed(absl::CancelledError("the call is over"));
    delete this;
  }

 private:
  class Outbox final : public GrpcOutbox<Out> {
   public:
    Outbox(size_t max_messages, GrpcServerStream* stream)
        : GrpcOutbox<Out>(max_messages), stream_(stream) {}
    void StartNext(const Out& message) override { stream_->StartWrite(&message); }
    void StartEnd(const absl::Status& status) override { stream_->Finish(ToGrpc(status)); }

   private:
    GrpcServerStream* stream_;  // alive until StartEnd
  };

  std::shared_ptr<Outbox> outbox_;
  std::unique_ptr<MessageHandler<In>> handler_;
  In incoming_;
};

// The client's end. Start makes one that deletes itself when the call is over; the handler hears of
// that by OnClosed.
template <typename Out, typename In>
class GrpcClientStream final : public grpc::ClientBidiReactor<Out, In> {
 public:
  // `start` begins the call: stub->async()->Method(context, reactor). Returns the sink. Close
  // cancels the call, whatever the status.
  template <typename StartCall>
  static std::shared_ptr<MessageSink<Out>> Start(size_t max_messages,
                                                 std::shared_ptr<MessageHandler<In>> handler,
                                                 StartCall start_call) {
    auto* stream = new GrpcClientStream(max_messages, std::move(handler));
    auto outbox = stream->outbox_;
    start_call(&stream->context_, stream);
    stream->AddHold();  // until StartEnd: writes begin outside the reactions
    stream->StartRead(&stream->incoming_);
    stream->StartCall();
    return outbox;
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      outbox_->Close(absl::UnavailableError("the peer ended the call"));
      return;
    }
    handler_->OnMessage(std::move(incoming_));
    incoming_.Clear();
    this->StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override { outbox_->WriteDone(ok); }
  void OnDone(const grpc::Status& status) override {
    handler_->OnClosed(status.ok() ? absl::UnavailableError("the peer ended the call")
                                   : FromGrpc(status));
    delete this;
  }

 private:
  class Outbox final : public GrpcOutbox<Out> {
   public:
    Outbox(size_t max_messages, GrpcClientStream* stream)
        : GrpcOutbox<Out>(max_messages), stream_(stream) {}
    void StartNext(const Out& message) override { stream_->StartWrite(&message); }
    void Interrupt() override { stream_->context_.TryCancel(); }
    void StartEnd(const absl::Status&) override {
      stream_->context_.TryCancel();
      stream_->RemoveHold();
    }

   private:
    GrpcClientStream* stream_;  // alive until StartEnd
  };

  GrpcClientStream(size_t max_messages, std::shared_ptr<MessageHandler<In>> handler)
      : outbox_(std::make_shared<Outbox>(max_messages, this)), handler_(std::move(handler)) {}

  grpc::ClientContext context_;
  std::shared_ptr<Outbox> outbox_;
  std::shared_ptr<MessageHandler<In>> handler_;
  In incoming_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_GRPC_STREAM_H_
