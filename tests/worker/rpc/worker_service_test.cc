// The gRPC edge of a worker, over loopback.
#include "worker/rpc/worker_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/channel.h"
#include "common/sha256.h"
#include "tests/worker/rpc/session_fixture.h"
#include "worker/rpc/model_files.h"

namespace quire {
namespace {

using testing::HasSubstr;
using worker::v1::FileChunk;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

class WorkerServiceTest : public SessionTest {
 protected:
  WorkerServiceTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = worker::v1::Worker::NewStub(
        NewChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~WorkerServiceTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::map<std::string, std::string> files_ = {
      {"config.json", "{}"}, {"empty", ""}, {"tokenizer.json", std::string((5 << 20) / 2, 't')}};
  WorkerService service_{&table_, "tiny", files_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
};

TEST_F(WorkerServiceTest, StreamsModelFilesInChunks) {
  grpc::ClientContext context;
  worker::v1::GetModelFilesRequest request;
  request.set_model("tiny");
  const auto reader = stub_->GetModelFiles(&context, request);
  std::map<std::string, std::string> received;
  int chunks = 0;
  FileChunk chunk;
  while (reader->Read(&chunk)) {
    ++chunks;
    const bool is_first = !received.contains(chunk.name());
    EXPECT_EQ(!chunk.sha256().empty(), is_first);
    if (is_first) {
      EXPECT_EQ(chunk.sha256(), Sha256Digest(files_.at(chunk.name())));
    }
    received[chunk.name()] += chunk.data();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(received, files_);
  EXPECT_EQ(chunks, 5);  // 2.5 MiB come as three
}

TEST_F(WorkerServiceTest, NamesTheModelItServes) {
  grpc::ClientContext context;
  worker::v1::GetModelFilesRequest request;
  request.set_model("other");
  const auto reader = stub_->GetModelFiles(&context, request);
  FileChunk chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("tiny"));
}

TEST_F(WorkerServiceTest, ACallerMayLeaveInTheMiddleOfAFile) {
  grpc::ClientContext context;
  const auto reader = stub_->GetModelFiles(&context, worker::v1::GetModelFilesRequest());
  FileChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  context.TryCancel();
  while (reader->Read(&chunk)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WorkerServiceTest, ASessionStreamsTokens) {
  gate_.Open();
  grpc::ClientContext context;
  const auto session = stub_->Session(&context);
  SessionRequest request;
  request.mutable_open()->set_coordinator_id("coordinator");
  request.mutable_open()->set_protocol(1);
  ASSERT_TRUE(session->Write(request));
  *request.mutable_submit() = MakeSubmit(3, {5, 6}, 40);
  ASSERT_TRUE(session->Write(request));

  SessionEvent event;
  ASSERT_TRUE(session->Read(&event));
  EXPECT_EQ(event.opened().worker().name(), "worker under test");
  std::vector<TokenId> tokens;
  bool finished = false;
  while (!finished && session->Read(&event)) {
    for (const uint32_t token : event.step_output().token_ids()) tokens.push_back(token);
    finished = event.step_output().finishes_size() > 0;
  }
  EXPECT_TRUE(finished);
  EXPECT_EQ(tokens, ExpectedTokens({5, 6}, 40));
  EXPECT_TRUE(session->WritesDone());
  while (session->Read(&event)) {
  }
  EXPECT_TRUE(session->Finish().ok());
}

TEST_F(WorkerServiceTest, ABadFirstMessageEndsTheSession) {
  grpc::ClientContext context;
  const auto session = stub_->Session(&context);
  ASSERT_TRUE(session->Write(SessionRequest()));
  SessionEvent event;
  EXPECT_FALSE(session->Read(&event));
  EXPECT_EQ(session->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(WorkerServiceTest, ACallerThatVanishesLeavesAnOrphan) {
  {
    grpc::ClientContext context;
    const auto session = stub_->Session(&context);
    SessionRequest request;
    request.mutable_open()->set_coordinator_id("coordinator");
    request.mutable_open()->set_protocol(1);
    session->Write(request);
    *request.mutable_submit() = MakeSubmit(1, {5, 6}, 12);
    session->Write(request);
    gate_.Allow(4);
    SessionEvent event;
    int tokens = 0;
    while (tokens < 4 && session->Read(&event)) tokens += event.step_output().token_ids_size();
    ASSERT_EQ(tokens, 4);
    context.TryCancel();
    while (session->Read(&event)) {
    }
    EXPECT_EQ(session->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  TestCoordinator again(&table_, "coordinator");  // the same one, over another transport
  again.Connect();
  again.Expect(MakeSubmit(1, {5, 6}, 12));
  again.Reclaim(1);
  again.WaitForTokens(1, 4);  // the first ones are replayed
  gate_.Open();
  EXPECT_EQ(again.WaitForFinish(1).reason(), v1::Finished::LENGTH);
  EXPECT_EQ(again.tokens(1), ExpectedTokens({5, 6}, 12));
}

}  // namespace
}  // namespace quire
