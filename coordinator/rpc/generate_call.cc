#include "coordinator/rpc/generate_call.h"

#include <utility>

#include <grpcpp/impl/codegen/proto_utils.h>
#include "common/rpc_status.h"
#include "common/steady_deadline.h"
#include "coordinator/rpc/inference_service.h"

namespace quire {

// --- ClientWriter ---

void ClientWriter::Attach(std::shared_ptr<RequestStream> stream, const ResumeTokens& resume) {
  MutexLock lock(mutex_);
  stream_ = std::move(stream);
  cursor_ = {.resume = resume};
}

bool ClientWriter::is_aborted() {
  MutexLock lock(mutex_);
  return abort_.has_value();
}

void ClientWriter::Kick() {
  if (!is_ready_.exchange(true)) ready_->Push(shared_from_this());
}

void ClientWriter::Abort(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (!abort_.has_value()) abort_ = status;
  }
  Kick();
}

void ClientWriter::WriteDone(bool ok) {
  writing_ = false;
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
  is_ready_.store(false);
  if (finished_) return;
  absl::Status status;
  std::shared_ptr<RequestStream> ended;
  {
    MutexLock lock(mutex_);
    if (abort_.has_value() || (stream_ != nullptr && stream_->has_ended())) call_->LimitDelivery();
    if (writing_) return;
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
          writing_ = true;
          break;
        case RequestStream::Taken::kEnd:
          finished_ = true;
          ended = stream_;
          break;
      }
    }
  }
  if (writing_) {
    message_.Clear();
    bool owns_message = false;
    // Fails only beyond 2 GiB.
    (void)grpc::SerializationTraits<v1::GenerateEvent>::Serialize(event_, &message_, &owns_message);
    call_->StartWrite(message_);
    return;
  }
  call_->LimitDelivery();
  call_->Finish(status);
  // A stream that goes on without its client (it asked for what the stream does not have) is
  // cancelled.
  if (ended != nullptr) ended->ClientGone(this);
}

// --- GenerateCall ---

GenerateCall::GenerateCall(InferenceService* service, grpc::ServerCompletionQueue* arrivals,
                           grpc::ServerCompletionQueue* queue, std::shared_ptr<ReadyWriters> ready)
    : service_(service),
      arrivals_(arrivals),
      queue_(queue),
      writer_(std::make_shared<ClientWriter>(this, ready)),
      ready_(std::move(ready)),
      stream_(&context_) {
  ready_->AddCall();
  context_.AsyncNotifyWhenDone(&over_);
  service_->RequestGenerate(&context_, &request_, &stream_, queue_, arrivals_, &arrived_);
}

GenerateCall::~GenerateCall() { ready_->RemoveCall(); }

void GenerateCall::Served() {
  request_.Clear();
  Release();
}

void GenerateCall::Finish(const absl::Status& status) { stream_.Finish(ToGrpc(status), &finish_); }

void GenerateCall::LimitDelivery() {
  if (is_limited_ || is_over_) return;
  is_limited_ = true;
  num_users_.fetch_add(1);
  late_alarm_.Set(queue_, SteadyDeadline(service_->delivery_timeout()), &late_);
}

void GenerateCall::On(Event event, bool ok) {
  switch (event) {
    case Event::kArrived:
      // Otherwise the server shuts down, and no client came; nothing else is told of this call.
      if (!ok) return delete this;
      new GenerateCall(service_, arrivals_, queue_, ready_);
      return service_->Generate(this);
    case Event::kWritten:
      return writer_->WriteDone(ok);
    case Event::kFinished:
      is_finished_ = true;
      return Release();
    case Event::kOver:
      is_over_ = true;
      if (is_limited_) late_alarm_.Cancel();
      if (context_.IsCancelled() && !is_finished_) writer_->Cancelled();
      return Release();
    case Event::kLate:
      if (ok) context_.TryCancel();
      return Release();
  }
}

}  // namespace quire
