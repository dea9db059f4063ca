#ifndef QUIRE_CLIENTS_CPP_TARGETS_H_
#define QUIRE_CLIENTS_CPP_TARGETS_H_

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <quire/v1/inference.grpc.pb.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "common/address.h"
#include "common/mutex.h"

namespace quire {

// The coordinators that a client may use: equal and stateless, so any serves any call. Connections
// are made when first used. Thread safe.
class Targets {
 public:
  // REQUIRES: addresses is not empty.
  Targets(const std::vector<Address>& addresses,
          const std::shared_ptr<grpc::ChannelCredentials>& credentials);
  // Waits until no lease is held. Not from a thread of gRPC's.
  ~Targets();

  // Keeps the connections until it is dropped. Every asynchronous call holds one: a context keeps
  // its channel alive, and the last channel must not end on a thread of gRPC's, where it would wait
  // for that thread.
  using Lease = std::shared_ptr<const void>;
  Lease Hold();

  size_t size() const { return targets_.size(); }
  v1::Inference::Stub& stub(size_t target) const { return *targets_[target].stub; }
  // Waits for `micros`, less if a connection to the target comes about meanwhile, which this lets
  // go on: gRPC 1.51 sees to one only while something waits on its channel.
  void Wait(size_t target, int64_t micros) const;
  const std::string& name(size_t target) const { return targets_[target].name; }

  // Where a new call begins: the target that answered last, so that a dead one is not asked each
  // time.
  size_t preferred() const { return preferred_.load(std::memory_order_relaxed); }
  void Prefer(size_t target) { preferred_.store(target, std::memory_order_relaxed); }

 private:
  struct Target {
    std::string name;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::Inference::Stub> stub;
  };
  std::vector<Target> targets_;
  std::atomic<size_t> preferred_ = 0;
  Mutex mutex_;
  CondVar released_;
  size_t num_leases_ QUIRE_GUARDED_BY(mutex_) = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_TARGETS_H_
