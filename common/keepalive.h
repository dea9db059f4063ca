#ifndef QUIRE_COMMON_KEEPALIVE_H_
#define QUIRE_COMMON_KEEPALIVE_H_

#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

// How a connection notices that the machine at its other end is gone without a word: HTTP/2 pings,
// answered by the peer's gRPC whatever its program does. Both ends are set here, since a server
// ends a connection that pings more often than it permits.
namespace quire {

inline constexpr int kPingAfterSilenceMs = 20'000;
inline constexpr int kPingTimeoutMs = 10'000;
inline constexpr int kPermittedPingIntervalMs = 10'000;
inline constexpr int kPermittedPingStrikes =
    2;  // one more that comes too early ends the connection

// A channel pings while it has calls, for as long as they last.
inline void SetKeepalive(grpc::ChannelArguments* arguments) {
  arguments->SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingAfterSilenceMs);
  arguments->SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
  arguments->SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

inline void SetKeepalive(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingAfterSilenceMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kPermittedPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, kPermittedPingStrikes);
}

}  // namespace quire

#endif  // QUIRE_COMMON_KEEPALIVE_H_
