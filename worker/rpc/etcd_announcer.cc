#include "worker/rpc/etcd_announcer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/etcd/announcement.h"
#include "common/logging.h"

namespace quire {

using etcdserverpb::LeaseGrantResponse;
using etcdserverpb::LeaseKeepAliveResponse;
using etcdserverpb::LeaseRevokeResponse;
using etcdserverpb::PutResponse;
using etcdserverpb::RangeResponse;

EtcdAnnouncer::EtcdAnnouncer(EtcdApi* etcd, Options options)
    : etcd_(etcd),
      options_(std::move(options)),
      key_(WorkerKey(options_.prefix, options_.status.worker().name())),
      value_(EncodeAnnouncement(options_.status, options_.join_token)) {}

void EtcdAnnouncer::Tick() {
  Step step;
  int64_t lease;
  {
    MutexLock lock(mutex_);
    if (stopped_ || in_flight_ || options_.clock() < due_at_) return;
    in_flight_ = true;
    step = step_;
    lease = lease_;
  }
  Run(step, lease);
}

void EtcdAnnouncer::Run(Step step, int64_t lease) {
  switch (step) {
    case Step::kGrant:
      return Grant();
    case Step::kPut:
      return Put(lease);
    case Step::kKeepAlive:
      return KeepAlive(lease);
    case Step::kCheck:
      return Check(lease);
  }
}

void EtcdAnnouncer::Grant() {
  etcdserverpb::LeaseGrantRequest request;
  request.set_ttl(options_.lease_ttl_s);
  etcd_->Grant(request, [this](absl::StatusOr<LeaseGrantResponse> granted) {
    MutexLock lock(mutex_);
    if (granted.ok() && (granted->id() == 0 || granted->ttl() <= 0)) {
      granted = absl::InternalError(absl::StrCat("etcd grants no lease: ", granted->error()));
    }
    if (!granted.ok()) return Failed(granted.status());
    lease_ = granted->id();
    beat_micros_ = granted->ttl() * 1'000'000 / 3;
    // A process that starts takes its name; later it may have lost it to a newer one.
    Next(was_announced_ ? Step::kCheck : Step::kPut, 0);
  });
}

void EtcdAnnouncer::Put(int64_t lease) {
  etcdserverpb::PutRequest request;
  request.set_key(key_);
  request.set_value(value_);
  request.set_lease(lease);
  etcd_->Put(request, [this](absl::StatusOr<PutResponse> put) {
    MutexLock lock(mutex_);
    if (absl::IsNotFound(put.status())) return LeaseLost();
    if (!put.ok()) return Failed(put.status());
    if (!std::exchange(was_announced_, true) || name_is_taken_) {
      LogInfo(absl::StrCat("announced in etcd at ", etcd_->member(), " as ", key_));
    }
    name_is_taken_ = false;
    Succeeded();
    Next(Step::kKeepAlive, beat_micros_);
  });
}

void EtcdAnnouncer::KeepAlive(int64_t lease) {
  etcdserverpb::LeaseKeepAliveRequest request;
  request.set_id(lease);
  etcd_->KeepAlive(request, [this](absl::StatusOr<LeaseKeepAliveResponse> beat) {
    MutexLock lock(mutex_);
    if (!beat.ok() && !absl::IsNotFound(beat.status())) return Failed(beat.status());
    if (beat.ok() && beat->ttl() > 0) {
      Succeeded();
      return Next(Step::kCheck, 0);
    }
    LeaseLost();
  });
}

void EtcdAnnouncer::Check(int64_t lease) {
  etcdserverpb::RangeRequest request;
  request.set_key(key_);
  etcd_->Range(request, [this, lease](absl::StatusOr<RangeResponse> found) {
    MutexLock lock(mutex_);
    if (!found.ok()) return Failed(found.status());
    Succeeded();
    if (found->kvs().empty()) return Next(Step::kPut, 0);
    const mvccpb::KeyValue& kv = found->kvs(0);
    const auto announced =
        DecodeAnnouncement(key_, kv.value(), options_.prefix, options_.join_token);
    const bool is_own = announced.ok() && announced->incarnation() == options_.status.incarnation();
    // What is no announcement is not another's either.
    if (!announced.ok() || (is_own && kv.lease() != lease)) return Next(Step::kPut, 0);
    if (!is_own && !std::exchange(name_is_taken_, true)) {
      LogWarning(absl::StrCat("another worker, at ", announced->address(), ", has the name ",
                              options_.status.worker().name(), " in etcd"));
    }
    Next(Step::kKeepAlive, beat_micros_);
  });
}

void EtcdAnnouncer::Next(Step step, int64_t delay) {
  in_flight_ = false;
  step_ = step;
  due_at_ = options_.clock() + delay;
}

void EtcdAnnouncer::LeaseLost() {
  LogWarning("the lease in etcd is lost: announces this worker again");
  lease_ = 0;
  Next(Step::kGrant, 0);
}

void EtcdAnnouncer::Failed(const absl::Status& status) {
  if (num_failures_ == 0) {
    LogWarning(absl::StrCat("etcd at ", etcd_->member(),
                            " does not answer, and is tried again for ever: ", status.ToString()));
  }
  etcd_->TryNext();
  Next(step_, EtcdRetryDelay(num_failures_++));
}

void EtcdAnnouncer::Succeeded() {
  if (num_failures_ > 0) LogInfo(absl::StrCat("etcd at ", etcd_->member(), " answers"));
  num_failures_ = 0;
}

void EtcdAnnouncer::Stop() {
  int64_t lease;
  {
    MutexLock lock(mutex_);
    if (std::exchange(stopped_, true)) return;
    lease = std::exchange(lease_, 0);
    revoking_ = lease != 0;
  }
  if (lease != 0) {
    etcdserverpb::LeaseRevokeRequest request;
    request.set_id(lease);
    etcd_->Revoke(request, [this](const absl::StatusOr<LeaseRevokeResponse>&) {
      MutexLock lock(mutex_);
      revoking_ = false;
      revoked_.NotifyAll();
    });
    MutexLock lock(mutex_);
    while (revoking_) revoked_.Wait(mutex_);
  }
  etcd_->Shutdown();
}

}  // namespace quire
