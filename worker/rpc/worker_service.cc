#include "worker/rpc/worker_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_stream.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "worker/rpc/model_files.h"

namespace quire {
namespace {

using worker::v1::FileChunk;

// What may wait for a coordinator that does not read: at a message a step, seconds of decoding
// where a small model takes 0.1 ms, minutes elsewhere. With log-probabilities a step's message can
// have megabytes, so the bytes have a bound as well.
constexpr OutboxLimits kOutbox{.max_messages = 32'768, .max_bytes = 64 << 20};
constexpr size_t kChunkBytes = 1 << 20;

class FileWriter final : public grpc::ServerWriteReactor<FileChunk> {
 public:
  explicit FileWriter(const std::map<std::string, std::string>* files)
      : files_(files), file_(files->begin()) {
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::CANCELLED);
      return;
    }
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (file_ == files_->end()) {
      Finish(grpc::Status::OK);
      return;
    }
    const auto& [name, content] = *file_;
    chunk_.set_name(name);
    chunk_.clear_sha256();
    if (offset_ == 0) chunk_.set_sha256(Sha256Digest(content));
    chunk_.set_data(content.substr(offset_, kChunkBytes));
    offset_ += kChunkBytes;
    if (offset_ >= content.size()) {
      ++file_;
      offset_ = 0;
    }
    StartWrite(&chunk_);
  }

  const std::map<std::string, std::string>* files_;
  std::map<std::string, std::string>::const_iterator file_;
  size_t offset_ = 0;
  FileChunk chunk_;
};

class Refusal final : public grpc::ServerWriteReactor<FileChunk> {
 public:
  explicit Refusal(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

WorkerService::WorkerService(SessionTable* table, std::string model,
                             std::map<std::string, std::string> files)
    : table_(table), model_(std::move(model)), files_(std::move(files)) {}

grpc::ServerBidiReactor<worker::v1::SessionRequest, worker::v1::SessionEvent>*
WorkerService::Session(grpc::CallbackServerContext* context) {
  return new GrpcServerStream<worker::v1::SessionRequest, worker::v1::SessionEvent>(
      context, kOutbox,
      [this](std::shared_ptr<SessionTable::Sink> sink) { return table_->Connect(sink); });
}

grpc::ServerWriteReactor<FileChunk>* WorkerService::GetModelFiles(
    grpc::CallbackServerContext*, const worker::v1::GetModelFilesRequest* request) {
  if (!request->model().empty() && request->model() != model_) {
    return new Refusal(absl::NotFoundError(
        absl::StrCat("this worker serves ", model_, ", not ", request->model())));
  }
  return new FileWriter(&files_);
}

}  // namespace quire
