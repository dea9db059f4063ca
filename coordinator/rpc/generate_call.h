#ifndef QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_
#define QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_

#include <atomic>
#include <memory>
#include <optional>

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/async_stream.h>
#include <quire/v1/inference.pb.h>
#include "absl/status/status.h"
#include "common/mutex.h"
#include "coordinator/rpc/generate_server.h"
#include "coordinator/stream/request_stream.h"

namespace quire {

class GenerateCall;

// Writes a request's events to one client: at most one write is in flight, and what arrives
// meanwhile goes into the next, so a slow reader costs no more than the request itself. Outlives
// its gRPC call, since the request may still name it. Thread safe but for what says otherwise.
class ClientWriter final : public ClientSink, public std::enable_shared_from_this<ClientWriter> {
 public:
  ClientWriter(GenerateCall* call, std::shared_ptr<ReadyWriters> ready)
      : call_(call), ready_(std::move(ready)) {}

  // The stream to take events from, for a client that has these tokens.
  void Attach(std::shared_ptr<RequestStream> stream, const ResumeTokens& resume);
  // The client has gone, or the stream has let it go.
  bool is_aborted();

  // The writer goes on soon, in the thread of its call.
  void Kick() override;
  void Abort(const absl::Status& status) override;

  // In the thread of its call alone.
  //
  // Starts what is due: a write, or the end.
  void Advance();
  void WriteDone(bool ok);
  void Cancelled();

 private:
  GenerateCall* const call_;  // alive until Finish was started
  const std::shared_ptr<ReadyWriters> ready_;
  std::atomic<bool> is_ready_{false};  // among ready_
  Mutex mutex_;
  std::shared_ptr<RequestStream> stream_ QUIRE_GUARDED_BY(mutex_);
  RequestStream::Cursor cursor_ QUIRE_GUARDED_BY(mutex_);
  std::optional<absl::Status> abort_ QUIRE_GUARDED_BY(mutex_);
  // Of the call's thread.
  v1::GenerateEvent event_;
  grpc::ByteBuffer message_;  // the event, being written while writing_
  bool writing_ = false;
  bool finished_ = false;
};

// The gRPC call of one client: takes bytes, since gRPC answers what is no GenerateRequest as if
// there were no such method, and writes serialized GenerateEvents. Waits for its client, makes the
// next call that waits, is served, and deletes itself. Comes in the arrivals' thread, which looks
// at the request, or has the work pool look at a large one; all that follows is of its queue's
// thread, which must not wait for that.
class GenerateCall {
 public:
  // What a completion queue hands back.
  enum class Event { kArrived, kWritten, kFinished, kOver, kLate };
  struct Tag {
    GenerateCall* call;
    Event event;
  };

  GenerateCall(InferenceService* service, grpc::ServerCompletionQueue* arrivals,
               grpc::ServerCompletionQueue* queue, std::shared_ptr<ReadyWriters> ready);

  const grpc::ServerContext& context() const { return context_; }
  const grpc::ByteBuffer& request() const { return request_; }
  const std::shared_ptr<ClientWriter>& writer() const { return writer_; }
  // Holds the table's slot until the call is over.
  void Hold(std::shared_ptr<void> slot) { slot_ = std::move(slot); }

  // The service has looked at the request, and does not use this any more.
  void Served();

  // `message` stays until the write is over.
  void StartWrite(const grpc::ByteBuffer& message) { stream_.Write(message, &written_); }
  void Finish(const absl::Status& status);
  // From now on the client has the service's delivery timeout to take what is left: one that reads
  // nothing would hold the slot for ever.
  void LimitDelivery();

  void On(Event event, bool ok);

 private:
  ~GenerateCall();
  // One of those that still need it does not any more: its service, its end, gRPC, which tells when
  // the client has heard of that, and the alarm, if it was set.
  void Release() {
    if (num_users_.fetch_sub(1) == 1) delete this;
  }

  InferenceService* const service_;
  grpc::ServerCompletionQueue* const arrivals_;
  grpc::ServerCompletionQueue* const queue_;
  const std::shared_ptr<ClientWriter> writer_;
  const std::shared_ptr<ReadyWriters> ready_;
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncWriter<grpc::ByteBuffer> stream_;
  std::shared_ptr<void> slot_;
  std::atomic<int> num_users_{3};
  bool is_finished_ = false;
  bool is_over_ = false;
  bool is_limited_ = false;
  grpc::Alarm late_alarm_;
  Tag arrived_{this, Event::kArrived};
  Tag written_{this, Event::kWritten};
  Tag finish_{this, Event::kFinished};
  Tag over_{this, Event::kOver};
  Tag late_{this, Event::kLate};
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_
