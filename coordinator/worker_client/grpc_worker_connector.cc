#include "coordinator/worker_client/grpc_worker_connector.h"

#include <utility>

#include <grpcpp/grpcpp.h>
#include <quire/worker/v1/worker.grpc.pb.h>
#include "absl/strings/str_cat.h"
#include "common/channel.h"
#include "common/grpc_stream.h"
#include "common/keepalive.h"
#include "common/sha256.h"
#include "common/steady_deadline.h"

namespace quire {
namespace {

using worker::v1::FileChunk;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

// Submits and cancels that may wait for a worker that does not read.
constexpr size_t kMaxOutbox = 65'536;
constexpr int kMaxMessageBytes = 16 << 20;
constexpr size_t kMaxFileBytes = 512 << 20;  // of all files together

// Collects the chunks of one GetModelFiles call. Deletes itself.
class FileReader final : public grpc::ClientReadReactor<FileChunk> {
 public:
  using Done = std::function<void(absl::StatusOr<ModelFiles>)>;

  // The context is what the call can be cancelled by; it may outlive the reader.
  static std::shared_ptr<grpc::ClientContext> Start(worker::v1::Worker::Stub* stub,
                                                    const std::string& model, Done done) {
    auto* reader = new FileReader(std::move(done));
    const std::shared_ptr<grpc::ClientContext> context = reader->context_;
    context->set_deadline(SteadyDeadline(WorkerConnector::kFetchSeconds * int64_t{1'000'000}));
    reader->request_.set_model(model);
    stub->async()->GetModelFiles(context.get(), &reader->request_, reader);
    reader->StartRead(&reader->chunk_);
    reader->StartCall();
    return context;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    constexpr size_t kBytesOfAnEntry = 256;  // of the two tables below
    num_bytes_ += chunk_.data().size();
    if (!files_.contains(chunk_.name())) {
      num_bytes_ += kBytesOfAnEntry + 2 * (chunk_.name().size() + chunk_.sha256().size());
    }
    if (num_bytes_ > kMaxFileBytes) {
      problem_ = absl::ResourceExhaustedError(
          absl::StrCat("the model's files are larger than ", kMaxFileBytes >> 20, " MiB"));
      context_->TryCancel();
      return;
    }
    std::string& file = files_[chunk_.name()];
    file += chunk_.data();
    if (!chunk_.sha256().empty()) digests_[chunk_.name()] = chunk_.sha256();
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    if (problem_.ok() && !status.ok()) problem_ = FromGrpc(status);
    for (const auto& [name, content] : files_) {
      if (problem_.ok() && Sha256Digest(content) != digests_[name]) {
        problem_ = absl::DataLossError(absl::StrCat(name, " arrived damaged: its digest differs"));
      }
    }
    problem_.ok() ? done_(std::move(files_)) : done_(problem_);
    delete this;
  }

 private:
  explicit FileReader(Done done) : done_(std::move(done)) {}

  const Done done_;
  const std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  worker::v1::GetModelFilesRequest request_;
  FileChunk chunk_;
  ModelFiles files_;
  std::map<std::string, std::string> digests_;
  size_t num_bytes_ = 0;
  absl::Status problem_;
};

class GrpcWorkerConnector final : public WorkerConnector {
 public:
  GrpcWorkerConnector(const std::string& address,
                      const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    SetReconnect(&arguments, /*max_pause_ms=*/400);
    SetKeepalive(&arguments);
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    // Each worker has a connection of its own, so that none waits behind another's data.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = NewChannel(address, credentials, arguments);
    stub_ = worker::v1::Worker::NewStub(channel_);
  }

  std::shared_ptr<Sink> OpenSession(std::shared_ptr<Handler> handler) override {
    ConnectNow(channel_.get());
    return GrpcClientStream<SessionRequest, SessionEvent>::Start(
        {.max_messages = kMaxOutbox}, std::move(handler),
        [this](grpc::ClientContext* context, auto* reactor) {
          stub_->async()->Session(context, reactor);
        });
  }

  CancelFetch FetchFiles(const std::string& model,
                         std::function<void(absl::StatusOr<ModelFiles>)> done) override {
    return [context = FileReader::Start(stub_.get(), model, std::move(done))] {
      context->TryCancel();
    };
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
};

}  // namespace

std::unique_ptr<WorkerConnector> MakeGrpcWorkerConnector(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  return std::make_unique<GrpcWorkerConnector>(address, credentials);
}

}  // namespace quire
