#ifndef QUIRE_COMMON_ETCD_ETCD_API_H_
#define QUIRE_COMMON_ETCD_ETCD_API_H_

#include <etcd/rpc.pb.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/message_stream.h"

namespace quire {

// What Quire asks of etcd: by gRPC (EtcdClient), or of a fake in tests.
//
// A call goes to one member of the cluster, the same one until TryNext. It calls `done` once, on
// another thread, at most kCallSeconds later; a `done` may make other calls, but not Shutdown.
// Thread safe.
class EtcdApi {
 public:
  static constexpr int kCallSeconds = 3;
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;

  virtual ~EtcdApi() = default;

  virtual void Range(const etcdserverpb::RangeRequest& request,
                     Done<etcdserverpb::RangeResponse> done) = 0;
  virtual void Put(const etcdserverpb::PutRequest& request,
                   Done<etcdserverpb::PutResponse> done) = 0;
  virtual void Grant(const etcdserverpb::LeaseGrantRequest& request,
                     Done<etcdserverpb::LeaseGrantResponse> done) = 0;
  virtual void Revoke(const etcdserverpb::LeaseRevokeRequest& request,
                      Done<etcdserverpb::LeaseRevokeResponse> done) = 0;
  // One beat of a lease. An answer without a TTL: the lease is gone.
  virtual void KeepAlive(const etcdserverpb::LeaseKeepAliveRequest& request,
                         Done<etcdserverpb::LeaseKeepAliveResponse> done) = 0;
  // The call lasts until it fails or the sink is closed.
  virtual std::shared_ptr<MessageSink<etcdserverpb::WatchRequest>> Watch(
      std::shared_ptr<MessageHandler<etcdserverpb::WatchResponse>> handler) = 0;

  // Calls from now on go to the next member.
  virtual void TryNext() = 0;
  // The member that calls go to now, for log lines.
  virtual std::string member() const = 0;
  // Ends every call, and waits until nothing calls back any more; calls made later do nothing.
  virtual void Shutdown() = 0;
};

// How long to wait before the next try after so many failures in a row: etcd may be away for long,
// and everyone who uses it asks.
inline int64_t EtcdRetryDelay(uint32_t num_failures) {
  constexpr int64_t kFirst = 250'000;
  constexpr int64_t kLongest = 2'000'000;
  return std::min(kLongest, kFirst << std::min(num_failures, 4u));
}

}  // namespace quire

#endif  // QUIRE_COMMON_ETCD_ETCD_API_H_
