// Both ends of a bidirectional call, over a real gRPC server on loopback.
#include "common/grpc_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <quire/worker/v1/worker.grpc.pb.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/channel.h"
#include "tests/fakes/closed_port.h"
#include "tests/fakes/recording_handler.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;
using ClientHandler = RecordingHandler<SessionEvent>;
using ServerHandler = RecordingHandler<SessionRequest>;

SessionRequest NumberedRequest(uint64_t number) {
  SessionRequest request;
  request.mutable_ping()->set_nonce(number);
  return request;
}

SessionEvent NumberedEvent(uint64_t number) {
  SessionEvent event;
  event.mutable_pong()->set_nonce(number);
  return event;
}

// Large enough for a few of them to fill the transport's windows.
constexpr size_t kPadding = 256 << 10;
SessionRequest LargeRequest() {
  SessionRequest request;
  request.mutable_open()->set_coordinator_id(std::string(kPadding, 'x'));
  return request;
}
SessionEvent LargeEvent() {
  SessionEvent event;
  event.mutable_opened()->set_incarnation(std::string(kPadding, 'x'));
  return event;
}

// Takes one call after another, and keeps the ends of the last.
class Service final : public worker::v1::Worker::CallbackService {
 public:
  explicit Service(OutboxLimits limits) : limits_(limits) {}
  grpc::ServerBidiReactor<SessionRequest, SessionEvent>* Session(
      grpc::CallbackServerContext* context) override {
    return new GrpcServerStream<SessionRequest, SessionEvent>(
        context, limits_, [this](std::shared_ptr<MessageSink<SessionEvent>> sink) {
          MutexLock lock(mutex_);
          sink_ = std::move(sink);
          handler_ = std::make_shared<ServerHandler>();
          changed_.NotifyAll();
          return std::make_unique<Forwarder>(handler_);
        });
  }
  std::shared_ptr<MessageSink<SessionEvent>> WaitForSink() {
    MutexLock lock(mutex_);
    while (sink_ == nullptr) changed_.Wait(mutex_);
    return sink_;
  }
  std::shared_ptr<ServerHandler> handler() {
    MutexLock lock(mutex_);
    return handler_;
  }

 private:
  // The call owns its handler; the test keeps what it heard.
  class Forwarder final : public MessageHandler<SessionRequest> {
   public:
    explicit Forwarder(std::shared_ptr<ServerHandler> to) : to_(std::move(to)) {}
    void OnMessage(SessionRequest message) override { to_->OnMessage(std::move(message)); }
    void OnClosed(const absl::Status& status) override { to_->OnClosed(status); }

   private:
    const std::shared_ptr<ServerHandler> to_;
  };

  const OutboxLimits limits_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<MessageSink<SessionEvent>> sink_ QUIRE_GUARDED_BY(mutex_);
  std::shared_ptr<ServerHandler> handler_ QUIRE_GUARDED_BY(mutex_);
};

// A message that tells whether it is still held.
struct Tracked {
  std::shared_ptr<int> token;
  size_t bytes = 1;
  size_t ByteSizeLong() const { return bytes; }
};

// An outbox over a call whose operations end when the test says so.
class ManualOutbox final : public GrpcOutbox<Tracked> {
 public:
  ManualOutbox(OutboxLimits limits, bool close_cancels)
      : GrpcOutbox(limits), close_cancels_(close_cancels) {}
  void Cancel() override { ++cancels; }
  bool CloseCancels() const override { return close_cancels_; }
  void StartNext(const Tracked&) override { ++writes; }
  void StartEnd(const absl::Status& status) override { ends.push_back(status); }

  int cancels = 0;
  int writes = 0;
  std::vector<absl::Status> ends;

 private:
  const bool close_cancels_;
};

TEST(GrpcOutboxTest, AnOverflowFreesWhatWaitsAndEndsTheWriteInFlight) {
  ManualOutbox outbox({.max_messages = 3}, /*close_cancels=*/false);
  const auto token = std::make_shared<int>();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(outbox.Write({token}));
  EXPECT_FALSE(outbox.Write({token}));
  EXPECT_EQ(token.use_count(), 2);  // ours and the one being written
  EXPECT_EQ(outbox.cancels, 1);
  EXPECT_THAT(outbox.ends, IsEmpty());
  outbox.WriteDone(false);
  EXPECT_EQ(token.use_count(), 1);
  ASSERT_THAT(outbox.ends, SizeIs(1));
  EXPECT_EQ(outbox.ends[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(outbox.writes, 1);
}

TEST(GrpcOutboxTest, BytesAreBoundedToo) {
  ManualOutbox outbox({.max_messages = 100, .max_bytes = 10}, /*close_cancels=*/false);
  EXPECT_TRUE(outbox.Write({nullptr, 6}));
  EXPECT_TRUE(outbox.Write({nullptr, 4}));
  outbox.WriteDone(true);
  EXPECT_TRUE(outbox.Write({nullptr, 6}));  // what is out no longer counts
  EXPECT_FALSE(outbox.Write({nullptr, 1}));
  EXPECT_EQ(outbox.cancels, 1);
}

TEST(GrpcOutboxTest, NothingFollowsAWriteThatFailed) {
  ManualOutbox outbox({.max_messages = 10}, /*close_cancels=*/false);
  const auto token = std::make_shared<int>();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(outbox.Write({token}));
  outbox.Close(absl::OkStatus());
  outbox.WriteDone(true);
  EXPECT_EQ(outbox.writes, 2);
  outbox.WriteDone(false);
  EXPECT_EQ(outbox.writes, 2);
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_THAT(outbox.ends, ElementsAre(absl::OkStatus()));
}

TEST(GrpcOutboxTest, AnErrorWaitsForTheWriteInFlightUnlessCloseCancels) {
  for (const bool close_cancels : {false, true}) {
    ManualOutbox outbox({.max_messages = 10}, close_cancels);
    const auto token = std::make_shared<int>();
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(outbox.Write({token}));
    outbox.Close(absl::AbortedError("superseded"));
    EXPECT_EQ(outbox.cancels, close_cancels ? 1 : 0);
    EXPECT_EQ(token.use_count(), 2);
    outbox.WriteDone(!close_cancels);
    EXPECT_THAT(outbox.ends, ElementsAre(absl::AbortedError("superseded")));
  }
}

class GrpcStreamTest : public testing::Test {
 protected:
  GrpcStreamTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    Dial(absl::StrCat("127.0.0.1:", port));
  }
  ~GrpcStreamTest() override {
    sink_->Close(absl::CancelledError("the test is over"));
    EXPECT_FALSE(client_->WaitForEnd().ok());
    server_->Shutdown(std::chrono::system_clock::now());
  }

  void Dial(const std::string& address) {
    stub_ = worker::v1::Worker::NewStub(NewChannel(address, grpc::InsecureChannelCredentials()));
    client_ = std::make_shared<ClientHandler>();
    sink_ = GrpcClientStream<SessionRequest, SessionEvent>::Start(
        kLimits, client_, [this](grpc::ClientContext* context, auto* reactor) {
          stub_->async()->Session(context, reactor);
        });
  }

  static constexpr size_t kMaxMessages = 100;
  static constexpr OutboxLimits kLimits{.max_messages = kMaxMessages, .max_bytes = 48 << 20};
  Service service_{kLimits};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
  std::shared_ptr<ClientHandler> client_;
  std::shared_ptr<MessageSink<SessionRequest>> sink_;
};

TEST_F(GrpcStreamTest, CarriesBothWaysInOrder) {
  auto server_sink = service_.WaitForSink();
  constexpr uint64_t kMessages = 2000;
  for (uint64_t i = 0; i < kMessages; ++i) {
    if (i % 50 == 0) {  // stays within the bound
      client_->WaitFor(i);
      service_.handler()->WaitFor(i);
    }
    ASSERT_TRUE(sink_->Write(NumberedRequest(i)));
    ASSERT_TRUE(server_sink->Write(NumberedEvent(i)));
  }
  const auto events = client_->WaitFor(kMessages);
  const auto requests = service_.handler()->WaitFor(kMessages);
  for (uint64_t i = 0; i < kMessages; ++i) {
    ASSERT_EQ(events[i].pong().nonce(), i);
    ASSERT_EQ(requests[i].ping().nonce(), i);
  }
}

TEST_F(GrpcStreamTest, ManyThreadsMayWrite) {
  auto server_sink = service_.WaitForSink();
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 25; ++i)
        EXPECT_TRUE(server_sink->Write(NumberedEvent(thread * 100 + i)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<uint64_t> next = {0, 100, 200, 300};
  for (const SessionEvent& event : client_->WaitFor(100)) {
    EXPECT_EQ(event.pong().nonce(), next[event.pong().nonce() / 100]++);
  }
}

TEST_F(GrpcStreamTest, AnOrderlyEndComesAfterTheMessages) {
  auto server_sink = service_.WaitForSink();
  for (uint64_t i = 0; i < 50; ++i) server_sink->Write(NumberedEvent(i));
  server_sink->Close(absl::OkStatus());
  EXPECT_FALSE(server_sink->Write(NumberedEvent(50)));
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client_->WaitFor(50).size(), 50u);
  EXPECT_FALSE(service_.handler()->WaitForEnd().ok());
}

TEST_F(GrpcStreamTest, TheServersEndBringsItsStatus) {
  service_.WaitForSink()->Close(
      WithField(absl::FailedPreconditionError("not so"), "open.protocol"));
  const absl::Status status = client_->WaitForEnd();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "not so");
  EXPECT_EQ(FieldOf(status), "open.protocol");
  EXPECT_FALSE(service_.handler()->WaitForEnd().ok());
  EXPECT_FALSE(sink_->Write(NumberedRequest(1)));
}

TEST_F(GrpcStreamTest, TheClientsEndReachesTheServer) {
  auto server_sink = service_.WaitForSink();
  sink_->Write(NumberedRequest(1));
  service_.handler()->WaitFor(1);
  sink_->Close(absl::CancelledError("enough"));
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(service_.handler()->WaitForEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(server_sink->Write(NumberedEvent(1)));
}

TEST_F(GrpcStreamTest, AClientThatDoesNotReadLosesTheCall) {
  auto server_sink = service_.WaitForSink();
  client_->SetHeld(true);
  uint64_t taken = 0;
  while (server_sink->Write(LargeEvent())) ++taken;
  EXPECT_GE(taken, kMaxMessages);  // so many wait, and the transport holds some
  EXPECT_FALSE(service_.handler()->WaitForEnd().ok());  // though it still does not read
  client_->SetHeld(false);
  EXPECT_FALSE(client_->WaitForEnd().ok());
}

TEST_F(GrpcStreamTest, AMessageBeyondTheOutboxsBytesEndsTheCall) {
  auto server_sink = service_.WaitForSink();
  SessionEvent event;
  event.mutable_opened()->set_incarnation(std::string(kLimits.max_bytes, 'x'));
  EXPECT_FALSE(server_sink->Write(std::move(event)));
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(GrpcStreamTest, AServerThatDoesNotReadLosesTheCall) {
  service_.WaitForSink();
  service_.handler()->SetHeld(true);
  uint64_t taken = 0;
  while (sink_->Write(LargeRequest())) ++taken;
  EXPECT_GE(taken, kMaxMessages);
  service_.handler()->SetHeld(false);
  EXPECT_FALSE(client_->WaitForEnd().ok());
  EXPECT_FALSE(service_.handler()->WaitForEnd().ok());
}

TEST_F(GrpcStreamTest, AServerThatStopsEndsTheCall) {
  service_.WaitForSink();
  server_->Shutdown(std::chrono::system_clock::now());
  EXPECT_FALSE(client_->WaitForEnd().ok());
  EXPECT_FALSE(service_.handler()->WaitForEnd().ok());
}

TEST_F(GrpcStreamTest, NoServerIsUnavailable) {
  service_.WaitForSink()->Close(absl::OkStatus());
  EXPECT_FALSE(client_->WaitForEnd().ok());
  const ClosedPort closed;
  Dial(closed.address().ToString());
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quire
