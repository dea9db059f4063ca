#ifndef QUIRE_COMMON_CHANNEL_H_
#define QUIRE_COMMON_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>

namespace quire {

// A channel to `target` ("host:port") whose calls' callbacks may let go of anything, the channel
// itself included. Every channel is made here.
//
// gRPC 1.51 runs all callbacks of a process in a few threads, which it ends together with the last
// channel or server that used them, in whatever thread lets go of that. A call holds its channel,
// so it may be a callback's own thread: that cannot join itself, yet goes on in a queue that has
// been freed (grpc/grpc#32584). Here those threads last as long as the process.
std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    const grpc::ChannelArguments& arguments = {});

}  // namespace quire

#endif  // QUIRE_COMMON_CHANNEL_H_
