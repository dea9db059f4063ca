#include "coordinator/registry/etcd_registry.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/etcd/announcement.h"
#include "common/logging.h"
#include "common/printable.h"

namespace quire {

using etcdserverpb::RangeResponse;
using etcdserverpb::WatchResponse;

namespace {

// A key as a log line shows it: anyone may have written it.
std::string Shown(const std::string& key) {
  constexpr size_t kMaxShownBytes = 128;
  return Printable(key, kMaxShownBytes);
}

}  // namespace

class EtcdRegistry::WatchHandler final : public MessageHandler<WatchResponse> {
 public:
  WatchHandler(EtcdRegistry* registry, uint64_t watch) : registry_(registry), watch_(watch) {}
  void OnMessage(WatchResponse response) override { registry_->OnWatch(watch_, response); }
  void OnClosed(const absl::Status& status) override { registry_->OnWatchClosed(watch_, status); }

 private:
  EtcdRegistry* const registry_;
  const uint64_t watch_;
};

EtcdRegistry::EtcdRegistry(EtcdApi* etcd, WorkerRegistry* registry, Options options)
    : etcd_(etcd),
      registry_(registry),
      options_(std::move(options)),
      keys_(WorkerKeys(options_.prefix)) {}

void EtcdRegistry::Tick() {
  {
    MutexLock lock(mutex_);
    if (stopped_ || reading_ || options_.clock() < read_at_) return;
    reading_ = true;
    read_.clear();
    told_.clear();
  }
  ReadPage(keys_, 0);
}

void EtcdRegistry::Stop() {
  std::shared_ptr<MessageSink<etcdserverpb::WatchRequest>> sink;
  {
    MutexLock lock(mutex_);
    if (std::exchange(stopped_, true)) return;
    ++watch_;
    sink = std::move(sink_);
  }
  if (sink != nullptr) sink->Close(absl::CancelledError("the coordinator stops"));
  etcd_->Shutdown();
}

// --- Reading ---

void EtcdRegistry::ReadPage(const std::string& from, int64_t revision) {
  etcdserverpb::RangeRequest request;
  request.set_key(from);
  request.set_range_end(EndOfKeys(keys_));
  request.set_limit(kPageKeys);
  request.set_revision(revision);
  etcd_->Range(request, [this, revision](absl::StatusOr<RangeResponse> page) {
    OnPage(std::move(page), revision);
  });
}

void EtcdRegistry::OnPage(absl::StatusOr<RangeResponse> page, int64_t revision) {
  std::string next;
  int64_t watch_from = 0;
  {
    MutexLock lock(mutex_);
    if (stopped_) return;
    if (!page.ok()) return ReadFailed(page.status());
    // All pages are of one moment, the first one's.
    if (revision == 0) revision = page->header().revision();
    for (const mvccpb::KeyValue& kv : page->kvs()) {
      if (IsTooLong(kv.key())) continue;
      if (read_.size() < WorkerRegistry::kMaxWorkers) read_.emplace(kv.key(), Decode(kv));
    }
    if (page->more() && !page->kvs().empty() && read_.size() < WorkerRegistry::kMaxWorkers) {
      next = page->kvs(page->kvs_size() - 1).key() + '\0';
    } else {
      OnAllRead(revision);
      if (!watching_) watch_from = revision + 1;
    }
  }
  if (!next.empty()) return ReadPage(next, revision);
  if (watch_from != 0) StartWatch(watch_from);
}

void EtcdRegistry::OnAllRead(int64_t revision) {
  if (num_failures_ > 0) LogInfo(absl::StrCat("etcd at ", etcd_->member(), " answers"));
  num_failures_ = 0;
  if (watching_) num_watch_failures_ = 0;
  reading_ = false;
  read_at_ = options_.clock() + kRelistMicros;
  std::vector<std::string> gone;
  for (const auto& [key, listed] : listed_) {
    if (!read_.contains(key) && !told_.contains(key)) gone.push_back(key);
  }
  for (const std::string& key : gone) Unlist(key);
  for (const auto& [key, announced] : read_) {
    if (!told_.contains(key)) List(key, announced);
  }
  read_.clear();
  told_.clear();
}

void EtcdRegistry::ReadFailed(const absl::Status& status) {
  if (num_failures_ == 0) {
    LogWarning(
        absl::StrCat("etcd at ", etcd_->member(),
                     " does not answer, and the workers that are known stay: ", status.ToString()));
  }
  etcd_->TryNext();
  reading_ = false;
  read_.clear();
  read_at_ = options_.clock() + EtcdRetryDelay(num_failures_++);
  // It goes to a member that does not answer: the next one is watched.
  if (sink_ != nullptr) std::exchange(sink_, nullptr)->Close(absl::CancelledError("etcd is away"));
  watching_ = false;
  ++watch_;
}

// --- Watching ---

void EtcdRegistry::StartWatch(int64_t revision) {
  uint64_t watch;
  {
    MutexLock lock(mutex_);
    if (stopped_) return;
    watch = ++watch_;
    watching_ = true;
  }
  auto sink = etcd_->Watch(std::make_shared<WatchHandler>(this, watch));
  etcdserverpb::WatchRequest request;
  etcdserverpb::WatchCreateRequest& create = *request.mutable_create_request();
  create.set_key(keys_);
  create.set_range_end(EndOfKeys(keys_));
  create.set_start_revision(revision);
  create.set_fragment(true);
  sink->Write(std::move(request));
  {
    MutexLock lock(mutex_);
    if (watch == watch_ && watching_ && !stopped_) {
      sink_ = std::move(sink);
      return;
    }
  }
  sink->Close(absl::CancelledError("the watch is not needed any more"));
}

void EtcdRegistry::OnWatch(uint64_t watch, const WatchResponse& response) {
  MutexLock lock(mutex_);
  if (watch != watch_ || !watching_ || stopped_) return;
  for (const mvccpb::Event& event : response.events()) {
    const std::string& key = event.kv().key();
    if (!absl::StartsWith(key, keys_) || IsTooLong(key)) continue;
    if (reading_ && told_.size() < WorkerRegistry::kMaxWorkers) told_.insert(key);
    event.type() == mvccpb::Event::DELETE ? Unlist(key) : List(key, Decode(event.kv()));
  }
  if (response.compact_revision() > 0) return EndWatch("what it was to begin with is compacted");
  if (response.canceled()) return EndWatch(response.cancel_reason());
}

void EtcdRegistry::OnWatchClosed(uint64_t watch, const absl::Status& status) {
  MutexLock lock(mutex_);
  if (watch != watch_ || !watching_ || stopped_) return;
  EndWatch(status.ToString());
}

void EtcdRegistry::EndWatch(const std::string& why) {
  if (num_watch_failures_ == 0) {
    LogWarning(absl::StrCat("the watch of etcd at ", etcd_->member(),
                            " ended: reads everything again: ", why));
  }
  if (sink_ != nullptr) std::exchange(sink_, nullptr)->Close(absl::CancelledError("ended"));
  watching_ = false;
  ++watch_;
  read_at_ = std::min(read_at_, options_.clock() + EtcdRetryDelay(num_watch_failures_++));
}

// --- What keys say ---

bool EtcdRegistry::IsTooLong(const std::string& key) {
  if (key.size() <= kMaxWorkerKeyBytes) return false;
  if (!std::exchange(told_of_long_key_, true)) {
    LogWarning(
        absl::StrCat("etcd has a key of ", key.size(), " bytes, which is left out: ", Shown(key)));
  }
  return true;
}

EtcdRegistry::Announced EtcdRegistry::Decode(const mvccpb::KeyValue& kv) const {
  return DecodeAnnouncement(kv.key(), kv.value(), options_.prefix, options_.join_token);
}

void EtcdRegistry::List(const std::string& key, const Announced& announced) {
  auto found = listed_.find(key);
  if (found == listed_.end()) {
    if (listed_.size() >= WorkerRegistry::kMaxWorkers) {
      if (!std::exchange(is_full_, true)) {
        LogWarning(absl::StrCat("etcd has more than ", listed_.size(),
                                " announcements: those beyond it are left out"));
      }
      return;
    }
    found = listed_.emplace(key, Listed()).first;
  }
  Listed& listed = found->second;
  const std::string before =
      std::exchange(listed.address, announced.ok() ? announced->address() : "");
  absl::Status status = announced.status();
  if (announced.ok()) {
    status =
        registry_->List(announced->address(), announced->incarnation(), announced->worker().name());
  }
  if (before != listed.address) UnlistAddress(before);
  const std::string refused(status.message());
  if (!refused.empty() && refused != listed.refused) {
    LogWarning(absl::StrCat("what etcd has under ", Shown(key), " is not used: ", refused));
  }
  listed.refused = refused;
}

void EtcdRegistry::Unlist(const std::string& key) {
  const auto found = listed_.find(key);
  if (found == listed_.end()) return;
  const std::string address = found->second.address;
  listed_.erase(found);
  is_full_ = false;
  UnlistAddress(address);
}

void EtcdRegistry::UnlistAddress(const std::string& address) {
  const auto has_it = [&address](const auto& entry) { return entry.second.address == address; };
  if (address.empty() || std::any_of(listed_.begin(), listed_.end(), has_it)) return;
  registry_->Unlist(address);
}

}  // namespace quire
