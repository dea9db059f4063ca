#include "coordinator/registry/registry_service.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include "tests/coordinator/in_process_cluster.h"
#include "tests/fakes/recording_sink.h"

namespace quire {
namespace {

using testing::HasSubstr;
using worker::v1::JoinReply;
using worker::v1::WorkerStatus;

class JoinHandlerTest : public testing::Test {
 protected:
  static WorkerStatus Announced(const std::string& name) {
    WorkerStatus status;
    status.set_address("a:1");
    status.set_incarnation("1");
    status.mutable_worker()->set_name(name);
    return status;
  }

  InProcessNetwork network_{ModelFiles{{"config.json", "{}"}}};
  InProcessCoordinator coordinator_{&network_};
  std::shared_ptr<RecordingSink<JoinReply>> sink_ = std::make_shared<RecordingSink<JoinReply>>();
  std::unique_ptr<MessageHandler<WorkerStatus>> handler_ =
      MakeJoinHandler(&coordinator_.registry(), "c", sink_);
};

TEST_F(JoinHandlerTest, WhatCannotBeAWorkerIsRefused) {
  handler_->OnMessage(Announced("x\n2026-01-01 W quire-coordinator forged"));
  ASSERT_TRUE(sink_->closed.has_value());
  EXPECT_TRUE(absl::IsInvalidArgument(*sink_->closed)) << *sink_->closed;
  EXPECT_THAT(sink_->closed->message(), HasSubstr("WorkerStatus.worker.name"));
  EXPECT_TRUE(coordinator_.registry().Views().empty());
  EXPECT_TRUE(sink_->written.empty());
}

TEST_F(JoinHandlerTest, AWorkerIsTakenAndSaysSoOnce) {
  network_.Start("a:1", {.name = "one"});
  handler_->OnMessage(Announced("one"));
  handler_->OnMessage(WorkerStatus());
  coordinator_.WaitUntilReady(1);
  ASSERT_EQ(sink_->written.size(), 1u);
  EXPECT_EQ(sink_->written[0].refused(), "");
}

}  // namespace
}  // namespace quire
