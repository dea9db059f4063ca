#include "tests/fakes/in_process_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/fakes/recording_handler.h"

namespace quire {
namespace {

using testing::ElementsAre;

class InProcessStreamTest : public testing::Test {
 protected:
  using Stream = InProcessStream<int, std::string>;

  std::shared_ptr<RecordingHandler<std::string>> client_ =
      std::make_shared<RecordingHandler<std::string>>();
  RecordingHandler<int>* server_ = nullptr;  // the stream's
  std::shared_ptr<MessageSink<std::string>> server_sink_;
  Stream stream_{client_,
                 [this](std::shared_ptr<MessageSink<std::string>> sink) {
                   server_sink_ = std::move(sink);
                   auto handler = std::make_unique<RecordingHandler<int>>();
                   server_ = handler.get();
                   return handler;
                 },
                 3};
};

TEST_F(InProcessStreamTest, CarriesBothWaysInOrder) {
  std::thread writer([this] {
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(stream_.client_sink()->Write(i));
  });
  EXPECT_TRUE(server_sink_->Write("a"));
  EXPECT_TRUE(server_sink_->Write("b"));
  writer.join();
  EXPECT_THAT(server_->WaitFor(3), ElementsAre(0, 1, 2));
  EXPECT_THAT(client_->WaitFor(2), ElementsAre("a", "b"));
}

TEST_F(InProcessStreamTest, AnOrderlyEndComesAfterTheMessages) {
  stream_.SetClientReads(false);
  EXPECT_TRUE(server_sink_->Write("last"));
  server_sink_->Close(absl::OkStatus());
  EXPECT_FALSE(server_sink_->Write("too late"));
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(client_->WaitFor(1), ElementsAre("last"));
  EXPECT_FALSE(server_->WaitForEnd().ok());
}

TEST_F(InProcessStreamTest, ACutReachesBothEnds) {
  stream_.Cut();
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_->WaitForEnd().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(stream_.client_sink()->Write(1));
}

TEST_F(InProcessStreamTest, AFullOutboxEndsTheCall) {
  stream_.SetClientReads(false);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(server_sink_->Write("x"));
  EXPECT_FALSE(server_sink_->Write("x"));
  EXPECT_EQ(client_->WaitForEnd().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->WaitForEnd().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace quire
