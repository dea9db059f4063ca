#include "coordinator/rpc/generate_call.h"

#include <utility>

#include <grpcpp/impl/codegen/proto_utils.h>
#include "common/rpc_status.h"

namespace quire {

void ClientWriter::Attach(std::shared_ptr<RequestStream> stream) {
  MutexLock lock(mutex_);
  stream_ = std::move(stream);
}

bool ClientWriter::is_aborted() {
  MutexLock lock(mutex_);
  return abort_.has_value();
}

void ClientWriter::Abort(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (!abort_.has_value()) abort_ = status;
  }
  // Also when it is not the first: this one may come from the write that the end had to wait for.
  Advance();
}

void ClientWriter::WriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    writing_ = false;
  }
  ok ? Advance() : Cancelled();
}

void ClientWriter::Cancelled() {
  std::shared_ptr<RequestStream> stream;
  {
    MutexLock lock(mutex_);
    stream = stream_;
  }
  Abort(absl::CancelledError("the client went away"));
  if (stream != nullptr) stream->ClientGone(this);
}

void ClientWriter::Advance() {
  absl::Status status;
  std::shared_ptr<RequestStream> ended;
  bool write = false;
  {
    MutexLock lock(mutex_);
    if (finished_ || writing_) return;
    if (abort_.has_value()) {
      status = *abort_;
      finished_ = true;
    } else if (stream_ == nullptr) {
      return;
    } else {
      switch (stream_->Take(&cursor_, &event_, &status)) {
        case RequestStream::Taken::kNothing:
          return;
        case RequestStream::Taken::kEvent:
          write = writing_ = true;
          break;
        case RequestStream::Taken::kEnd:
          finished_ = true;
          ended = stream_;
          break;
      }
    }
  }
  // Outside the lock, since gRPC may call WriteDone from inside.
  if (write) {
    message_.Clear();
    bool owns_message = false;
    // Fails only beyond 2 GiB.
    (void)grpc::SerializationTraits<v1::GenerateEvent>::Serialize(event_, &message_, &owns_message);
    call_->StartWrite(&message_);
    return;
  }
  call_->Finish(ToGrpc(status));
  // A stream that goes on without its client (it asked for what the stream does not have) is
  // cancelled.
  if (ended != nullptr) ended->ClientGone(this);
}

}  // namespace quire
