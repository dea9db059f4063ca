#ifndef QUIRE_COMMON_SERVER_LIMITS_H_
#define QUIRE_COMMON_SERVER_LIMITS_H_

#include <sys/resource.h>

#include <grpcpp/server_builder.h>

// What one peer may take of a server, whatever it sends. docs/operations.md lists the values.
namespace quire {

inline constexpr int kMaxMetadataBytes = 8 << 10;  // of one call's headers
// A connection that has not completed its handshake by then is closed.
inline constexpr int kHandshakeTimeoutMs = 10'000;
// A connection without a call for this long is closed; its client makes another with its next call.
inline constexpr int kMaxIdleMs = 1'800'000;

// `max_streams`: calls that one connection may have open; its client's gRPC holds back the rest.
// `max_message_bytes`: of one received message; the call of a larger one ends RESOURCE_EXHAUSTED.
inline void SetLimits(grpc::ServerBuilder* builder, int max_streams, int max_message_bytes) {
  builder->SetMaxReceiveMessageSize(max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_streams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMaxIdleMs);
}

// Takes as many file descriptors as the system grants (the hard limit): each connection holds one,
// and gRPC 1.51 has no limit of its own for connections.
inline void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);  // lowered by nobody: it stays as it is where this fails
}

}  // namespace quire

#endif  // QUIRE_COMMON_SERVER_LIMITS_H_
