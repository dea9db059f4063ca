#ifndef QUIRE_COMMON_ETCD_ETCD_CLIENT_H_
#define QUIRE_COMMON_ETCD_ETCD_CLIENT_H_

#include <etcd/rpc.grpc.pb.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "common/etcd/etcd_api.h"

namespace quire {

// etcd's v3 gRPC API, over a channel to each of a cluster's members.
class EtcdClient final : public EtcdApi {
 public:
  // REQUIRES: `endpoints` is not empty, each is HOST:PORT.
  EtcdClient(const std::vector<std::string>& endpoints,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials);
  ~EtcdClient() override { Shutdown(); }

  void Range(const etcdserverpb::RangeRequest& request,
             Done<etcdserverpb::RangeResponse> done) override;
  void Put(const etcdserverpb::PutRequest& request, Done<etcdserverpb::PutResponse> done) override;
  void Grant(const etcdserverpb::LeaseGrantRequest& request,
             Done<etcdserverpb::LeaseGrantResponse> done) override;
  void Revoke(const etcdserverpb::LeaseRevokeRequest& request,
              Done<etcdserverpb::LeaseRevokeResponse> done) override;
  void KeepAlive(const etcdserverpb::LeaseKeepAliveRequest& request,
                 Done<etcdserverpb::LeaseKeepAliveResponse> done) override;
  std::shared_ptr<MessageSink<etcdserverpb::WatchRequest>> Watch(
      std::shared_ptr<MessageHandler<etcdserverpb::WatchResponse>> handler) override;

  void TryNext() override { ++current_; }
  std::string member() const override { return Current().address; }
  void Shutdown() override;

 private:
  struct Member {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<etcdserverpb::KV::Stub> kv;
    std::unique_ptr<etcdserverpb::Lease::Stub> lease;
    std::unique_ptr<etcdserverpb::Watch::Stub> watch;
  };
  class Calls;
  class KeepAliveCall;
  class WatchHandler;
  template <typename Request, typename Response, typename Start>
  void Call(const Request& request, Done<Response> done, Start start);
  const Member& Current() const { return members_[current_.load() % members_.size()]; }
  // Current for a call: EtcdRetryDelay is the pause, and the channel makes none of its own.
  const Member& Connected() const;

  std::vector<Member> members_;
  std::atomic<size_t> current_{0};
  const std::shared_ptr<Calls> calls_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_ETCD_ETCD_CLIENT_H_
