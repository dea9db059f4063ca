#include "clients/cpp/targets.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>
#include "common/keepalive.h"

namespace quire {

Targets::Targets(const std::vector<Address>& addresses,
                 const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  SetReconnect(&arguments, /*max_pause_ms=*/1000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  SetKeepalive(&arguments);
  for (const Address& address : addresses) {
    Target& target = targets_.emplace_back();
    target.name = address.ToString();
    target.stub =
        v1::Inference::NewStub(grpc::CreateCustomChannel(target.name, credentials, arguments));
  }
}

Targets::~Targets() {
  MutexLock lock(mutex_);
  while (num_leases_ > 0) released_.Wait(mutex_);
}

Targets::Lease Targets::Hold() {
  MutexLock lock(mutex_);
  ++num_leases_;
  return Lease(this, [this](const void*) {
    MutexLock release(mutex_);
    if (--num_leases_ == 0) released_.NotifyAll();
  });
}

}  // namespace quire
