#ifndef QUIRE_COMMON_KEEPALIVE_H_
#define QUIRE_COMMON_KEEPALIVE_H_

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

// How a connection is made, and how it notices that the machine at its other end is gone without a
// word: HTTP/2 pings, answered by the peer's gRPC whatever its program does. Both ends are set
// here, since a server ends a connection that pings more often than it permits.
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

// Pauses between attempts to connect, from 100 ms on: gRPC's own grow to two minutes, too long to
// come back to a server that restarts. An attempt itself may take kConnectTimeoutMs, handshakes of
// TLS and HTTP/2 over a slow network included; gRPC's name for that limit is the least pause.
inline constexpr int kFirstReconnectPauseMs = 100;
inline constexpr int kConnectTimeoutMs = 5'000;
inline void SetReconnect(grpc::ChannelArguments* arguments, int max_pause_ms) {
  arguments->SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectPauseMs);
  arguments->SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, max_pause_ms);
  arguments->SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
}

// Ends a channel's pause, if it is in one. For those who pause by a timer of their own: gRPC 1.51
// waits for its timers by the wall clock, so that a pause lasts an hour longer where that is put
// back by an hour.
inline void ConnectNow(grpc::Channel* channel) {
  grpc::experimental::ChannelResetConnectionBackoff(channel);
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
