// Calls for a drain, over a real server on loopback.
#include "common/admin_server.h"

#include <gtest/gtest.h>
#include <quire/admin/v1/admin.grpc.pb.h>

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/channel.h"

namespace quire {
namespace {

using admin::v1::DrainReport;
using admin::v1::DrainRequest;

class AdminServerTest : public testing::Test {
 protected:
  AdminServerTest() {
    auto started = AdminServer::Start({"127.0.0.1", 0}, grpc::InsecureServerCredentials(), [this] {
      if (num_asked_.fetch_add(1) == 0) asked_.set_value();
    });
    EXPECT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    stub_ = admin::v1::Admin::NewStub(
        NewChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }

  struct Call {
    grpc::ClientContext context;
    DrainRequest request;
    DrainReport report;
    std::promise<grpc::Status> status;
  };
  std::unique_ptr<Call> Start(std::optional<uint32_t> timeout_ms = std::nullopt) {
    auto call = std::make_unique<Call>();
    if (timeout_ms.has_value()) call->request.set_timeout_ms(*timeout_ms);
    stub_->async()->Drain(
        &call->context, &call->request, &call->report,
        [status = &call->status](grpc::Status ended) { status->set_value(std::move(ended)); });
    return call;
  }

  std::atomic<int> num_asked_ = 0;
  std::promise<void> asked_;
  std::unique_ptr<AdminServer> server_;
  std::unique_ptr<admin::v1::Admin::Stub> stub_;
};

TEST_F(AdminServerTest, ManyCallsAskOnceAndGetOneReport) {
  std::vector<std::unique_ptr<Call>> calls;
  calls.push_back(Start(250));
  asked_.get_future().wait();
  EXPECT_EQ(server_->DrainBegun(), 250'000);
  for (int i = 0; i < 7; ++i) calls.push_back(Start(i));
  auto last = Start();
  last->context.TryCancel();
  EXPECT_EQ(last->status.get_future().get().error_code(), grpc::StatusCode::CANCELLED);
  DrainReport report;
  report.set_running(5);
  report.set_moved(4);
  report.set_cut(1);
  server_->Finish(report);
  int num_answered = 0;
  for (const auto& call : calls) {
    const grpc::Status status = call->status.get_future().get();
    // One that had not come yet finds the server gone.
    if (!status.ok()) continue;
    ++num_answered;
    EXPECT_EQ(call->report.running(), 5u);
    EXPECT_EQ(call->report.moved(), 4u);
    EXPECT_EQ(call->report.cut(), 1u);
  }
  EXPECT_GE(num_answered, 1);
  EXPECT_EQ(num_asked_, 1);
}

TEST_F(AdminServerTest, ACallDuringADrainAsksForNone) {
  EXPECT_EQ(server_->DrainBegun(), std::nullopt);
  auto call = Start(0);
  server_->Finish(DrainReport());
  call->status.get_future().wait();
  EXPECT_EQ(num_asked_, 0);
}

TEST_F(AdminServerTest, CallsEndWithTheServer) {
  auto call = Start();
  asked_.get_future().wait();
  server_ = nullptr;
  EXPECT_EQ(call->status.get_future().get().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AdminServerTest, AnAddressInUseIsNamed) {
  const auto second = AdminServer::Start(*ParseAddress(server_->address()),
                                         grpc::InsecureServerCredentials(), [] {});
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(server_->address()), std::string::npos);
}

}  // namespace
}  // namespace quire
