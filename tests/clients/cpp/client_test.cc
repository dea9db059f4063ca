#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "common/rpc_status.h"
#include "tests/clients/fake_inference.h"
#include "tests/fakes/closed_port.h"

namespace quire {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Notes all that comes, and complains of what comes out of order.
class Recorder final : public GenerateHandler {
 public:
  void OnAccepted(const v1::Accepted& accepted) override {
    ++num_accepted;
    request_id = accepted.request_id();
  }
  void OnDelta(const v1::Delta& delta) override {
    EXPECT_EQ(delta.first_index(), ids.size());
    ids.insert(ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    text += delta.text();
    if (on_delta) on_delta();
  }
  void OnFinished(const v1::Finished& finished) override { ends.push_back(finished); }
  void OnReconnect(const absl::Status& why, const std::string&) override { losses.push_back(why); }
  void OnEnd(const absl::Status& status) override {
    ++num_ends;
    result = status;
  }

  std::function<void()> on_delta;
  int num_accepted = 0;
  std::string request_id;
  std::vector<uint32_t> ids;
  std::string text;
  std::vector<v1::Finished> ends;
  std::vector<absl::Status> losses;
  int num_ends = 0;
  absl::Status result;
};

grpc::Status Unavailable() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the worker is gone");
}

v1::GenerateRequest Request(uint32_t max_new_tokens = 4) {
  v1::GenerateRequest request;
  request.set_text("hello");
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

TEST(Client, StreamsARequest) {
  FakeInference server;
  Client client({server.address()});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(), &recorder).ok());
  EXPECT_THAT(recorder.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(recorder.text, "0 1 2 3 ");
  EXPECT_THAT(recorder.ends, SizeIs(1));
  EXPECT_EQ(recorder.num_ends, 1);
  EXPECT_THAT(recorder.request_id, SizeIs(32));  // made by the client
}

TEST(Client, PassesOverATargetThatIsUnavailable) {
  const ClosedPort closed;
  FakeInference server;
  Client client({closed.address(), server.address()});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(), &recorder).ok());
  EXPECT_THAT(recorder.losses, SizeIs(1));
  Recorder again;  // and begins where it was served
  EXPECT_TRUE(client.Generate(Request(), &again).ok());
  EXPECT_THAT(again.losses, SizeIs(0));
  EXPECT_TRUE(client.ListModels().ok());
}

TEST(Client, FailsWhenEveryTargetIsUnavailable) {
  const ClosedPort closed, other;
  Client client({closed.address(), other.address()},
                {.max_attempts = 3, .initial_backoff = milliseconds(1)});
  Recorder recorder;
  EXPECT_TRUE(absl::IsUnavailable(client.Generate(Request(), &recorder)));
  EXPECT_THAT(recorder.losses, SizeIs(5)) << "three attempts at each of two";
  EXPECT_TRUE(absl::IsUnavailable(client.GetLoad().status()));
  EXPECT_TRUE(absl::IsUnavailable(client.Cancel("r").status()));
}

TEST(Client, WaitsForACoordinatorThatHasNoWorkerYet) {
  FakeInference server;
  std::atomic<int> num_refusals = 7;
  server.set_generate([&](grpc::ServerContext* context, const v1::GenerateRequest& request,
                          FakeInference::Writer* writer) {
    return num_refusals-- > 0 ? Unavailable() : server.DefaultGenerate(context, request, writer);
  });
  Client client({server.address()}, {.initial_backoff = milliseconds(1)});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(), &recorder).ok()) << recorder.result;
  EXPECT_THAT(recorder.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(server.requests(), SizeIs(8));
}

TEST(Client, AnUnaryCallsTimeoutHoldsAcrossItsAttempts) {
  const ClosedPort closed;
  Client client({closed.address()},
                {.initial_backoff = std::chrono::hours(1), .max_backoff = std::chrono::hours(1)});
  const auto load = client.GetLoad({.timeout = std::chrono::seconds(10)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(load.status())) << load.status();
}

TEST(Client, ResumesALostStreamAtTheNextTarget) {
  FakeInference first, second;
  first.LoseAfter(2, Unavailable());
  Client client({first.address(), second.address()});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(), &recorder).ok());
  EXPECT_THAT(recorder.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(recorder.text, "0 1 2 3 ");
  EXPECT_EQ(recorder.num_accepted, 1);
  EXPECT_THAT(recorder.losses, SizeIs(1));
  ASSERT_THAT(second.requests(), SizeIs(1));
  const v1::GenerateRequest resumed = second.requests()[0];
  EXPECT_EQ(resumed.request_id(), first.requests()[0].request_id());
  ASSERT_EQ(resumed.resume().choices_size(), 1);
  EXPECT_THAT(resumed.resume().choices(0).emitted_token_ids(), ElementsAre(0, 1));
}

TEST(Client, ResumesAtTheSameTargetAfterAWait) {
  FakeInference server;
  server.LoseAfter(1, Unavailable(), /*times=*/2);
  Client client({server.address()}, {.initial_backoff = milliseconds(1)});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(), &recorder).ok());
  EXPECT_THAT(recorder.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(server.requests(), SizeIs(3));
}

TEST(Client, DropsWhatAServerRepeats) {
  FakeInference first, second;
  first.LoseAfter(3, Unavailable());
  second.set_generate([&](grpc::ServerContext* context, const v1::GenerateRequest& request,
                          FakeInference::Writer* writer) {
    v1::GenerateRequest from_the_start = request;
    from_the_start.clear_resume();
    return second.DefaultGenerate(context, from_the_start, writer);
  });
  Client client({first.address(), second.address()});
  Recorder recorder;
  EXPECT_TRUE(client.Generate(Request(6), &recorder).ok());
  EXPECT_THAT(recorder.ids, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(recorder.text, "0 1 2 3 4 5 ");
}

TEST(Client, SurvivesACoordinatorThatIsKilled) {
  FakeInference first, second;
  first.set_token_time(milliseconds(20));
  Client client({first.address(), second.address()});
  Recorder recorder;
  std::thread killer;
  recorder.on_delta = [&] {
    if (recorder.ids.size() == 3) killer = std::thread([&] { first.Kill(); });
  };
  EXPECT_TRUE(client.Generate(Request(500), &recorder).ok()) << recorder.result;
  killer.join();
  EXPECT_THAT(recorder.ids, SizeIs(500));
  EXPECT_THAT(second.requests(), SizeIs(1));
}

TEST(Client, GivesUpAfterTheBoundedNumberOfLosses) {
  FakeInference server;
  server.set_generate(
      [](grpc::ServerContext*, const v1::GenerateRequest& request, FakeInference::Writer* writer) {
        writer->Write(AcceptedEvent(request));
        writer->Write(FinishedEvent(0, v1::Finished::ABORTED, 0));
        return Unavailable();
      });
  Client client({server.address()}, {.max_attempts = 3, .initial_backoff = milliseconds(1)});
  Recorder recorder;
  const absl::Status status = client.Generate(Request(), &recorder);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(status.message(), "the worker is gone");
  EXPECT_THAT(server.requests(), SizeIs(3));
  EXPECT_THAT(recorder.ends, SizeIs(1));  // the aborted one, once
}

TEST(Client, BaselineStreamsDoNotMove) {
  FakeInference first, second;
  first.LoseAfter(2, Unavailable());
  Client client({first.address(), second.address()});
  v1::GenerateRequest request = Request();
  request.set_engine(v1::BASELINE);
  Recorder recorder;
  EXPECT_TRUE(absl::IsUnavailable(client.Generate(request, &recorder)));
  EXPECT_THAT(second.requests(), SizeIs(0));
}

TEST(Client, ErrorsKeepTheServersWordsAndField) {
  FakeInference server;
  server.set_generate([](grpc::ServerContext*, const v1::GenerateRequest&, FakeInference::Writer*) {
    return ToGrpc(WithField(absl::InvalidArgumentError("3 is above 2"), "sampling.temperature"));
  });
  Client client({server.address()});
  Recorder recorder;
  const absl::Status status = client.Generate(Request(), &recorder);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "3 is above 2");
  EXPECT_EQ(FieldOf(status), "sampling.temperature");
  EXPECT_EQ(recorder.result, status);
}

TEST(Client, AStreamThatEndsTooEarlyIsDataLoss) {
  FakeInference server;
  server.set_generate(
      [](grpc::ServerContext*, const v1::GenerateRequest& request, FakeInference::Writer* writer) {
        writer->Write(AcceptedEvent(request));
        return grpc::Status::OK;
      });
  Client client({server.address()});
  Recorder recorder;
  EXPECT_TRUE(absl::IsDataLoss(client.Generate(Request(), &recorder)));
}

TEST(Client, CancelFromAnotherThreadEndsTheStream) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()});
  Recorder recorder;
  auto call = client.Start(Request(1'000'000), &recorder);
  server.WaitForRequests(1);
  std::thread canceller([&] {
    call->Cancel();
    call->Cancel();  // without waiting for what the server says to the first
  });
  const absl::Status status = call->Wait();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_THAT(status.message(), testing::AnyOf("the client cancelled", "cancelled by the client"));
  canceller.join();
}

TEST(Client, CancelWithinAStreamBringsTheUsage) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()}, {.cancel_grace = std::chrono::minutes(1)});
  Recorder recorder;
  std::shared_ptr<ClientStream> call;
  Mutex mutex;
  v1::GenerateRequest request = Request(1'000'000);
  request.set_tenant("t");
  recorder.on_delta = [&] {
    MutexLock lock(mutex);
    if (recorder.ids.size() == 3) call->Cancel();
  };
  {
    MutexLock lock(mutex);
    call = client.Start(request, &recorder);
  }
  const absl::Status status = call->Wait();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(status.message(), "the client cancelled");  // the server's words: it was asked
  ASSERT_THAT(recorder.ends, SizeIs(1));
  EXPECT_EQ(recorder.ends[0].reason(), v1::Finished::ABORTED);
  EXPECT_GE(recorder.ends[0].usage().output_tokens(), 3);
}

TEST(Client, CancelWhileWaitingToReconnectEndsAtOnce) {
  FakeInference server;
  server.LoseAfter(1, Unavailable());
  Client client({server.address()},
                {.initial_backoff = std::chrono::hours(1), .max_backoff = std::chrono::hours(1)});
  class Canceller final : public GenerateHandler {
   public:
    void OnReconnect(const absl::Status&, const std::string&) override { lost.set_value(); }
    std::promise<void> lost;
  } handler;
  auto call = client.Start(Request(), &handler);
  handler.lost.get_future().wait();
  call->Cancel();
  EXPECT_TRUE(absl::IsCancelled(call->Wait()));
}

TEST(Client, TheDeadlineEndsAStream) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()});
  Recorder recorder;
  const absl::Status status =
      client.Generate(Request(1'000'000), &recorder, {.timeout = milliseconds(50)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST(Client, TheDeadlineHoldsAcrossConnections) {
  FakeInference server;
  server.LoseAfter(1, Unavailable(), /*times=*/1000);
  Client client({server.address()},
                {.initial_backoff = std::chrono::hours(1), .max_backoff = std::chrono::hours(1)});
  Recorder recorder;
  // It does not wait an hour for it.
  const absl::Status status =
      client.Generate(Request(), &recorder, {.timeout = std::chrono::minutes(1)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("the worker is gone"));
}

TEST(Client, ManyStreamsAtOnce) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()});
  std::vector<Recorder> recorders(64);
  std::vector<std::shared_ptr<ClientStream>> calls;
  for (Recorder& recorder : recorders) calls.push_back(client.Start(Request(20), &recorder));
  for (auto& call : calls) EXPECT_TRUE(call->Wait().ok());
  for (const Recorder& recorder : recorders) EXPECT_THAT(recorder.ids, SizeIs(20));
}

TEST(Client, AsksEveryCoordinatorToCancel) {
  FakeInference first, second;
  second.set_token_time(milliseconds(1));
  Client owner({second.address()});
  v1::GenerateRequest request = Request(1'000'000);
  request.set_request_id("r1");
  request.set_tenant("t");
  Recorder recorder;
  auto call = owner.Start(request, &recorder);
  second.WaitForRequests(1);
  Client other({first.address(), second.address()});
  EXPECT_EQ(*other.Cancel("r1"), false);
  EXPECT_EQ(*other.Cancel("r1", "t"), true);
  EXPECT_TRUE(absl::IsCancelled(call->Wait()));
  EXPECT_EQ(*other.Cancel("never was"), false);
}

TEST(TargetsTest, ConnectsWhileItWaits) {
  const ClosedPort port;
  Client client({port.address()}, {.max_attempts = 1});
  EXPECT_TRUE(absl::IsUnavailable(client.GetLoad().status()));
  FakeInference server(port.address().port);
  // All of it, if nothing tries to connect.
  client.Wait(std::chrono::minutes(1));
  EXPECT_TRUE(client.GetLoad().ok());
}

TEST(ClientTest, TheTimeoutOfARequestHoldsOverAllAttempts) {
  constexpr uint32_t kTimeoutMs = 60'000;
  FakeInference server;
  Client client({server.address()}, {.max_backoff = milliseconds(kTimeoutMs)});
  std::atomic<int> num_losses = 0;
  server.set_generate(
      [&](grpc::ServerContext*, const v1::GenerateRequest&, FakeInference::Writer*) {
        // The third time, 300 ms after the first at least, it asks for more than is left.
        if (++num_losses < 3) return Unavailable();
        return ToGrpc(WithRetryDelay(absl::UnavailableError("later"), kTimeoutMs - 200));
      });
  v1::GenerateRequest request = Request();
  request.set_timeout_ms(kTimeoutMs);
  Recorder recorder;
  const absl::Status status = client.Generate(request, &recorder);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  const std::vector<v1::GenerateRequest> sent = server.requests();
  ASSERT_EQ(sent.size(), 3u);
  for (const v1::GenerateRequest& one : sent) EXPECT_LE(one.timeout_ms(), kTimeoutMs);
  EXPECT_LT(sent.back().timeout_ms(), sent.front().timeout_ms());
}

}  // namespace
}  // namespace quire
