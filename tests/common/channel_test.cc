// Channels that end in places where gRPC's own would take the process along.
#include "common/channel.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>

namespace quire {
namespace {

struct Call {
  grpc::ClientContext context;
  grpc::Slice nothing;
  grpc::ByteBuffer request{&nothing, 1};
  grpc::ByteBuffer response;
};

// The only channel of this process that is used, but for the one that NewChannel keeps.
TEST(ChannelTest, ACallbackMayLetGoOfTheLastChannel) {
  for (int i = 0; i < 10; ++i) {
    auto call = std::make_unique<Call>();
    std::promise<void> is_released;
    std::promise<grpc::StatusCode> ended;
    {
      grpc::GenericStub stub(NewChannel("127.0.0.1:1", grpc::InsecureChannelCredentials()));
      stub.UnaryCall(&call->context, "/quire.Nothing/Nothing", {}, &call->request, &call->response,
                     [&](const grpc::Status& status) {
                       is_released.get_future().wait();
                       call.reset();  // its context holds the channel
                       ended.set_value(status.error_code());
                     });
    }
    is_released.set_value();
    EXPECT_EQ(ended.get_future().get(), grpc::StatusCode::UNAVAILABLE);
  }
}

}  // namespace
}  // namespace quire
