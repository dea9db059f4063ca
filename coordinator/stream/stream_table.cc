#include "coordinator/stream/stream_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/rpc_status.h"

namespace quire {

void StreamTable::DropExpired(int64_t now) {
  while (!kept_.empty() && (kept_.front().until <= now || kept_bytes_ > kKeepBytes)) {
    kept_bytes_ -= kept_.front().num_bytes;
    kept_by_id_.erase(kept_.front().stream->request_id());
    kept_.pop_front();
  }
}

absl::StatusOr<StreamTable::Found> StreamTable::FindOrMake(
    const std::string& request_id, const std::string& fingerprint,
    const std::function<std::shared_ptr<RequestStream>()>& make, const std::string& tenant,
    bool is_resumed) {
  MutexLock lock(mutex_);
  if (!tenant.empty()) knows_tenants_.store(true, std::memory_order_relaxed);
  DropExpired(clock_());
  std::shared_ptr<RequestStream> known;
  if (const auto live = live_.find(request_id); live != live_.end()) {
    known = live->second.stream;
  } else if (const auto kept = kept_by_id_.find(request_id); kept != kept_by_id_.end()) {
    known = kept->second->stream;
  }
  // One that has failed is about to leave: who comes now shall not share its end.
  if (known != nullptr && known->has_failed()) known = nullptr;
  if (known != nullptr) {
    if (known->fingerprint() != fingerprint) {
      return WithField(
          absl::AlreadyExistsError(absl::StrCat("request_id \"", request_id,
                                                "\" is in use by a request with another body")),
          "request_id");
    }
    auto slot = TakeSlot(tenant, 2 * max_open_);
    if (!slot.ok()) return slot.status();
    return Found{std::move(known), false, *std::move(slot)};
  }
  for (const auto& [body, until] : quarantined_) {
    if (body != fingerprint || until <= clock_()) continue;
    return absl::FailedPreconditionError(
        "quarantined: workers were lost while they ran this request, the last with nothing else");
  }
  if (draining_) {
    return WithRetryDelay(absl::UnavailableError("the coordinator is draining"), kRetryDelayMs);
  }
  auto slot = TakeSlot(tenant, is_resumed ? 2 * max_open_ : max_open_);
  if (!slot.ok()) return slot.status();
  std::shared_ptr<RequestStream> stream = make();
  const auto suspect = std::find_if(suspects_.begin(), suspects_.end(),
                                    [&](const auto& entry) { return entry.first == fingerprint; });
  if (suspect != suspects_.end()) {
    stream->TakeLosses(std::move(suspect->second));
    suspects_.erase(suspect);
  }
  live_[request_id] = {stream, tenant};
  return Found{std::move(stream), true, *std::move(slot)};
}

absl::StatusOr<std::shared_ptr<void>> StreamTable::TakeSlot(const std::string& tenant,
                                                            size_t most) {
  if (!open_.Take(tenant, 1, most, tenant_share())) {
    const int64_t now = clock_();
    const std::string what =
        open_.total() >= most ? absl::StrCat(open_.total(), " requests are open, the most allowed")
                              : absl::StrCat(open_.held_by(tenant), " requests of the tenant \"",
                                             tenant, "\" are open, the most allowed for one");
    return WithRetryDelay(absl::ResourceExhaustedError(what),
                          retries_.NextMs(now, freed_slots_.PerSecond(now), open_.total()));
  }
  return std::shared_ptr<void>(nullptr, [this, tenant](void*) {
    MutexLock lock(mutex_);
    open_.Give(tenant, 1);
    freed_slots_.OnFreed(clock_(), 1);
    if (open_.total() == 0) read_.NotifyAll();
  });
}

absl::StatusOr<std::shared_ptr<void>> StreamTable::HoldBytes(const std::string& tenant,
                                                             size_t num_bytes) {
  MutexLock lock(held_mutex_);
  if (!held_bytes_.Take(tenant, num_bytes, kMaxHeldBytes, tenant_share())) {
    return WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(
            "the tokens that resumed requests came with take ", held_bytes_.total(), " bytes")),
        kRetryDelayMs);
  }
  return std::shared_ptr<void>(nullptr, [this, tenant, num_bytes](void*) {
    MutexLock lock(held_mutex_);
    held_bytes_.Give(tenant, num_bytes);
  });
}

void StreamTable::Quarantine(const RequestStream& stream) {
  MutexLock lock(mutex_);
  quarantined_.emplace_back(stream.fingerprint(), clock_() + kQuarantineMicros);
  if (quarantined_.size() > kMaxQuarantined) quarantined_.pop_front();
}

std::shared_ptr<RequestStream> StreamTable::FindLive(const std::string& request_id,
                                                     const std::string& tenant) const {
  MutexLock lock(mutex_);
  const auto found = live_.find(request_id);
  if (found == live_.end()) return nullptr;
  const Live& live = found->second;
  return live.tenant.empty() || live.tenant == tenant ? live.stream : nullptr;
}

void StreamTable::OnEnd(RequestStream& stream, const absl::Status& status) {
  const size_t num_bytes = stream.num_bytes();
  std::vector<int64_t> losses = stream.losses();
  MutexLock lock(mutex_);
  // Also of one in whose place another is already, made after it had failed.
  if (!status.ok() && !losses.empty()) {
    suspects_.emplace_back(stream.fingerprint(), std::move(losses));
    if (suspects_.size() > kMaxSuspects) suspects_.pop_front();
  }
  const auto found = live_.find(stream.request_id());
  if (found == live_.end() || found->second.stream.get() != &stream) return;
  const int64_t now = clock_();
  if (status.ok()) {
    const auto kept =
        kept_.insert(kept_.end(), {found->second.stream, now + kKeepMicros, num_bytes});
    kept_by_id_[stream.request_id()] = kept;
    kept_bytes_ += num_bytes;
  }
  live_.erase(found);
  DropExpired(now);
  if (live_.empty()) idle_.NotifyAll();
}

size_t StreamTable::num_live() const {
  MutexLock lock(mutex_);
  return live_.size();
}

size_t StreamTable::StartDraining() {
  MutexLock lock(mutex_);
  draining_ = true;
  return live_.size();
}

bool StreamTable::WaitUntilIdle(int64_t deadline) {
  MutexLock lock(mutex_);
  while (!live_.empty()) {
    if (!idle_.WaitUntil(mutex_, FromSteadyMicros(deadline))) return live_.empty();
  }
  return true;
}

bool StreamTable::WaitUntilRead(int64_t deadline) {
  MutexLock lock(mutex_);
  while (open_.total() > 0) {
    if (!read_.WaitUntil(mutex_, FromSteadyMicros(deadline))) return open_.total() == 0;
  }
  return true;
}

size_t StreamTable::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<RequestStream>> streams;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, live] : live_) streams.push_back(live.stream);
  }
  // Not in the order of a hash table, which another run would not take.
  std::sort(streams.begin(), streams.end(),
            [](const auto& a, const auto& b) { return a->request_id() < b->request_id(); });
  for (const auto& stream : streams) stream->End(status);
  return streams.size();
}

}  // namespace quire
