#include "clients/cpp/targets.h"

#include <grpcpp/support/channel_arguments.h>
#include "common/channel.h"
#include "common/keepalive.h"
#include "common/steady_deadline.h"

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
    target.channel = NewChannel(target.name, credentials, arguments);
    target.stub = v1::Inference::NewStub(target.channel);
  }
}

Targets::~Targets() {
  MutexLock lock(mutex_);
  while (num_leases_ > 0) released_.Wait(mutex_);
}

void Targets::Wait(size_t target, int64_t micros) const {
  grpc::Channel& channel = *targets_[target].channel;
  const gpr_timespec until = SteadyDeadline(micros);
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  const bool was_connected = state == GRPC_CHANNEL_READY;
  while (channel.WaitForStateChange(state, until)) {
    state = channel.GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY && !was_connected) return;
  }
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
