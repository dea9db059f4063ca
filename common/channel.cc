#include "common/channel.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <new>

namespace quire {
namespace {

// A call with a callback is what makes a channel use the threads. This channel leads nowhere (gRPC
// gives such a one for want of credentials), so the call fails at once.
struct ThreadsKeeper {
  std::shared_ptr<grpc::Channel> channel = grpc::CreateChannel("", nullptr);
  grpc::GenericStub stub{channel};
  grpc::ClientContext context;
  grpc::Slice nothing;
  grpc::ByteBuffer request{&nothing, 1};
  grpc::ByteBuffer response;

  ThreadsKeeper() {
    stub.UnaryCall(&context, "/quire.Nothing/Nothing", {}, &request, &response,
                   [](const grpc::Status&) {});
  }
};

}  // namespace

std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    const grpc::ChannelArguments& arguments) {
  // Never destroyed, and in static memory, where leak checkers find what it holds.
  alignas(ThreadsKeeper) static std::byte storage[sizeof(ThreadsKeeper)];
  [[maybe_unused]] static const auto* const keeper = new (storage) ThreadsKeeper;
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

}  // namespace quire
