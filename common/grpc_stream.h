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

// What a call's outbox may hold. A message counts with the bytes of its encoding.
struct OutboxLimits {
  size_t max_messages = 0;
  size_t max_bytes = 64 << 20;
};

// What both ends share: a bounded queue of messages with one write in flight. Cancel and Start* are
// called without the lock.
template <typename Out>
class GrpcOutbox : public MessageSink<Out> {
 public:
  explicit GrpcOutbox(OutboxLimits limits) : limits_(limits) {}

  bool Write(Out message) override {
    const size_t bytes = message.ByteSizeLong();
    {
      MutexLock lock(mutex_);
      if (closing_.has_value()) return false;
      if (queue_.size() >= limits_.max_messages || bytes > limits_.max_bytes - queued_bytes_) {
        End(absl::ResourceExhaustedError(absl::StrCat("the outbox is full: the peer has not read ",
                                                      queue_.size(), " messages of ", queued_bytes_,
                                                      " bytes")));
        cancelling_ = writing_;
      } else {
        queue_.push_back({std::move(message), bytes});
        queued_bytes_ += bytes;
        if (writing_) return true;
        writing_ = start_write_ = true;
      }
    }
    CancelIfDue();
    Advance();
    return !WasEnded();
  }

  void Close(absl::Status status) override {
    {
      MutexLock lock(mutex_);
      if (closing_.has_value()) return;
      if (!status.ok()) {
        End(std::move(status));
        cancelling_ = writing_ && CloseCancels();
      } else {
        closing_ = std::move(status);
        ended_ = !writing_;
      }
    }
    CancelIfDue();
    Advance();
  }

  // The write in flight is over. `ok` false: the call is dead.
  void WriteDone(bool ok) {
    {
      MutexLock lock(mutex_);
      queued_bytes_ -= queue_.front().bytes;
      queue_.pop_front();
      writing_ = false;
      if (!ok) {
        End(absl::UnavailableError("the connection was lost"));
      } else if (!queue_.empty()) {
        writing_ = start_write_ = true;
      } else if (closing_.has_value()) {
        ended_ = true;
      } else {
        return;
      }
    }
    Advance();
  }

 protected:
  // Makes a write in flight end soon, though the peer does not read. The call is alive.
  virtual void Cancel() = 0;
  // Whether Close with an error cancels a write in flight. Otherwise the write ends by itself, and
  // the peer gets the status.
  virtual bool CloseCancels() const = 0;
  virtual void StartNext(const Out& message) = 0;
  // Called once; no StartNext follows.
  virtual void StartEnd(const absl::Status& status) = 0;

 private:
  struct Queued {
    Out message;
    size_t bytes;
  };

  // Ends the call, with this status unless it has one. What waits is freed; a write in flight keeps
  // its message.
  void End(absl::Status status) QUIRE_REQUIRES(mutex_) {
    if (!closing_.has_value()) closing_ = std::move(status);
    while (queue_.size() > (writing_ ? 1u : 0u)) {
      queued_bytes_ -= queue_.back().bytes;
      queue_.pop_back();
    }
    ended_ = !writing_;
  }
  // Keeps the end from being started while the call is cancelled.
  void CancelIfDue() {
    {
      MutexLock lock(mutex_);
      if (!cancelling_) return;
    }
    Cancel();
    MutexLock lock(mutex_);
    cancelling_ = false;
  }
  // Starts what the state says is due: the end, or the write of the first message.
  void Advance() {
    const Out* next = nullptr;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (cancelling_) return;  // whoever cancels comes here next
      if (ended_) {
        if (std::exchange(end_started_, true)) return;
        status = *closing_;
      } else if (std::exchange(start_write_, false)) {
        next = &queue_.front().message;
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

  const OutboxLimits limits_;
  Mutex mutex_;
  std::deque<Queued> queue_ QUIRE_GUARDED_BY(mutex_);  // the first is being written while writing_
  size_t queued_bytes_ QUIRE_GUARDED_BY(mutex_) = 0;   // of queue_; at most max_bytes
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> closing_ QUIRE_GUARDED_BY(mutex_);
  bool start_write_ QUIRE_GUARDED_BY(mutex_) = false;  // the first message's write is due
  bool cancelling_ QUIRE_GUARDED_BY(mutex_) = false;
  bool ended_ QUIRE_GUARDED_BY(mutex_) = false;
  bool end_started_ QUIRE_GUARDED_BY(mutex_) = false;
};

// The server's end. Made by the service's method; deletes itself.
template <typename In, typename Out>
class GrpcServerStream final : public grpc::ServerBidiReactor<In, Out> {
 public:
  // `connect` gets the sink and gives the handler.
  template <typename Connect>
  GrpcServerStream(grpc::CallbackServerContext* context, OutboxLimits limits, Connect connect)
      : context_(context),
        outbox_(std::make_shared<Outbox>(limits, this)),
        handler_(connect(outbox_)) {
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
    Outbox(OutboxLimits limits, GrpcServerStream* stream)
        : GrpcOutbox<Out>(limits), stream_(stream) {}
    void Cancel() override { stream_->context_->TryCancel(); }
    bool CloseCancels() const override { return false; }
    void StartNext(const Out& message) override { stream_->StartWrite(&message); }
    void StartEnd(const absl::Status& status) override { stream_->Finish(ToGrpc(status)); }

   private:
    GrpcServerStream* stream_;  // alive until StartEnd
  };

  grpc::CallbackServerContext* const context_;
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
  static std::shared_ptr<MessageSink<Out>> Start(OutboxLimits limits,
                                                 std::shared_ptr<MessageHandler<In>> handler,
                                                 StartCall start_call) {
    auto* stream = new GrpcClientStream(limits, std::move(handler));
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
    Outbox(OutboxLimits limits, GrpcClientStream* stream)
        : GrpcOutbox<Out>(limits), stream_(stream) {}
    void Cancel() override { stream_->context_.TryCancel(); }
    bool CloseCancels() const override { return true; }
    void StartNext(const Out& message) override { stream_->StartWrite(&message); }
    void StartEnd(const absl::Status&) override {
      stream_->context_.TryCancel();
      stream_->RemoveHold();
    }

   private:
    GrpcClientStream* stream_;  // alive until StartEnd
  };

  GrpcClientStream(OutboxLimits limits, std::shared_ptr<MessageHandler<In>> handler)
      : handler_(std::move(handler)), outbox_(std::make_shared<Outbox>(limits, this)) {}

  // Goes last: where the handler's end is waited for, the call has let go of its channel by then.
  std::shared_ptr<MessageHandler<In>> handler_;
  grpc::ClientContext context_;
  std::shared_ptr<Outbox> outbox_;
  In incoming_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_GRPC_STREAM_H_
