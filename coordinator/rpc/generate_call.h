#ifndef QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_
#define QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_

#include <memory>
#include <optional>

#include <grpcpp/grpcpp.h>
#include <quire/v1/inference.pb.h>
#include "absl/status/status.h"
#include "common/mutex.h"
#include "coordinator/stream/request_stream.h"

namespace quire {

class GenerateCall;

// Writes a request's events to one client: at most one write is in flight, and what arrives
// meanwhile goes into the next, so a slow reader costs no more than the request itself. Outlives
// its gRPC call, since the request may still name it. Thread safe.
class ClientWriter final : public ClientSink, public std::enable_shared_from_this<ClientWriter> {
 public:
  ClientWriter(GenerateCall* call, RequestStream::Cursor cursor)
      : call_(call), cursor_(std::move(cursor)) {}

  // The stream to take events from.
  void Attach(std::shared_ptr<RequestStream> stream);
  // The client has gone, or the stream has let it go.
  bool is_aborted();

  void Kick() override { Advance(); }
  void Abort(const absl::Status& status) override;

  // From the call.
  void WriteDone(bool ok);
  void Cancelled();

 private:
  // Starts what is due: a write, or the end.
  void Advance();

  GenerateCall* const call_;  // alive until Finish was started
  Mutex mutex_;
  std::shared_ptr<RequestStream> stream_ QUIRE_GUARDED_BY(mutex_);
  RequestStream::Cursor cursor_ QUIRE_GUARDED_BY(mutex_);
  v1::GenerateEvent event_;
  grpc::ByteBuffer message_;  // the event, being written while writing_
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
  bool finished_ QUIRE_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> abort_ QUIRE_GUARDED_BY(mutex_);
};

// The gRPC call of one client, of serialized GenerateEvents. Made by the service's method; deletes
// itself.
class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  explicit GenerateCall(RequestStream::Cursor cursor)
      : writer_(std::make_shared<ClientWriter>(this, std::move(cursor))) {}

  const std::shared_ptr<ClientWriter>& writer() const { return writer_; }
  // Holds the table's slot until the call is over.
  void Hold(std::shared_ptr<void> slot) { slot_ = std::move(slot); }

  void OnWriteDone(bool ok) override { writer_->WriteDone(ok); }
  void OnCancel() override { writer_->Cancelled(); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<ClientWriter> writer_;
  std::shared_ptr<void> slot_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_GENERATE_CALL_H_
