#include "coordinator/worker_client/grpc_worker_connector.h"

#include <future>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <quire/worker/v1/worker.grpc.pb.h>
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// A worker that takes a call for its files and never says a word.
class SilentWorker final : public worker::v1::Worker::CallbackService {
 public:
  grpc::ServerWriteReactor<worker::v1::FileChunk>* GetModelFiles(
      grpc::CallbackServerContext*, const worker::v1::GetModelFilesRequest*) override {
    class Call final : public grpc::ServerWriteReactor<worker::v1::FileChunk> {
     public:
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }
    };
    called.set_value();
    return new Call;
  }
  std::promise<void> called;
};

TEST(GrpcWorkerConnectorTest, AFetchOfFilesCanBeCancelled) {
  SilentWorker worker;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&worker);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const auto connector =
      MakeGrpcWorkerConnector(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  std::promise<absl::Status> done;
  const WorkerConnector::CancelFetch cancel = connector->FetchFiles(
      "m", [&](absl::StatusOr<ModelFiles> files) { done.set_value(files.status()); });
  worker.called.get_future().wait();
  cancel();
  EXPECT_TRUE(absl::IsCancelled(done.get_future().get()));
  cancel();  // afterwards it does nothing
}

}  // namespace
}  // namespace quire
