#ifndef QUIRE_TESTS_FAKES_FAKE_ETCD_H_
#define QUIRE_TESTS_FAKES_FAKE_ETCD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/etcd/etcd_api.h"

namespace quire {

// etcd's store as a test drives it: calls wait until Answer, and nothing happens on other threads.
// Several clients may share a store. Not thread safe.
class FakeEtcdStore {
 public:
  struct Value {
    std::string bytes;
    int64_t lease = 0;
  };
  struct Event {
    int64_t revision;
    std::string key;
    std::optional<Value> value;  // none: deleted
  };

  void Put(const std::string& key, const Value& value) {
    keys_[key] = value;
    events_.push_back({++revision_, key, value});
  }
  void Delete(const std::string& key) {
    if (keys_.erase(key) > 0) events_.push_back({++revision_, key, std::nullopt});
  }
  int64_t Grant() { return leases_[next_lease_] = true, next_lease_++; }
  bool has_lease(int64_t lease) const { return leases_.contains(lease); }
  // Also what happens when it runs out.
  bool Revoke(int64_t lease) {
    std::vector<std::string> gone;
    for (const auto& [key, value] : keys_) {
      if (value.lease == lease) gone.push_back(key);
    }
    for (const std::string& key : gone) Delete(key);
    return leases_.erase(lease) > 0;
  }
  // Events up to now are forgotten.
  void Compact() {
    events_.clear();
    compacted_ = revision_;
  }
  // A store in its place that is empty, and counts its revisions anew.
  void LoseEverything() { *this = FakeEtcdStore(); }

  const std::map<std::string, Value>& keys() const { return keys_; }
  const std::deque<Event>& events() const { return events_; }
  int64_t revision() const { return revision_; }
  int64_t compacted() const { return compacted_; }

 private:
  std::map<std::string, Value> keys_;
  std::map<int64_t, bool> leases_;
  std::deque<Event> events_;
  int64_t revision_ = 1;
  int64_t compacted_ = 0;
  int64_t next_lease_ = 100;
};

// One client's way to the store.
class FakeEtcd final : public EtcdApi {
 public:
  explicit FakeEtcd(FakeEtcdStore* store) : store_(store) {}

  void Range(const etcdserverpb::RangeRequest& request,
             Done<etcdserverpb::RangeResponse> done) override {
    Ask("range", std::move(done), [this, request] {
      etcdserverpb::RangeResponse response;
      response.mutable_header()->set_revision(store_->revision());
      for (const auto& [key, value] : store_->keys()) {
        const bool in_range = request.range_end().empty()
                                  ? key == request.key()
                                  : key >= request.key() && key < request.range_end();
        if (!in_range) continue;
        if (request.limit() > 0 && response.kvs_size() == request.limit()) {
          response.set_more(true);
          break;
        }
        mvccpb::KeyValue& kv = *response.add_kvs();
        kv.set_key(key);
        kv.set_value(value.bytes);
        kv.set_lease(value.lease);
      }
      return response;
    });
  }
  void Put(const etcdserverpb::PutRequest& request, Done<etcdserverpb::PutResponse> done) override {
    Ask("put", std::move(done), [this, request]() -> absl::StatusOr<etcdserverpb::PutResponse> {
      if (!store_->has_lease(request.lease())) return absl::NotFoundError("no such lease");
      store_->Put(request.key(), {request.value(), request.lease()});
      return etcdserverpb::PutResponse();
    });
  }
  void Grant(const etcdserverpb::LeaseGrantRequest& request,
             Done<etcdserverpb::LeaseGrantResponse> done) override {
    Ask("grant", std::move(done), [this, request] {
      etcdserverpb::LeaseGrantResponse response;
      response.set_id(store_->Grant());
      response.set_ttl(request.ttl());
      return response;
    });
  }
  void Revoke(const etcdserverpb::LeaseRevokeRequest& request,
              Done<etcdserverpb::LeaseRevokeResponse> done) override {
    // Whoever revokes waits for it.
    calls_.push_back("revoke");
    if (!failure_.ok()) return done(failure_);
    store_->Revoke(request.id());
    done(etcdserverpb::LeaseRevokeResponse());
  }
  void KeepAlive(const etcdserverpb::LeaseKeepAliveRequest& request,
                 Done<etcdserverpb::LeaseKeepAliveResponse> done) override {
    Ask("keepalive", std::move(done), [this, request] {
      etcdserverpb::LeaseKeepAliveResponse response;
      response.set_id(request.id());
      response.set_ttl(store_->has_lease(request.id()) ? 9 : 0);
      return response;
    });
  }
  std::shared_ptr<MessageSink<etcdserverpb::WatchRequest>> Watch(
      std::shared_ptr<MessageHandler<etcdserverpb::WatchResponse>> handler) override {
    calls_.push_back("watch");
    watch_ = std::make_shared<WatchCall>();
    watch_->handler = std::move(handler);
    return watch_;
  }
  void TryNext() override { ++num_switches_; }
  std::string member() const override { return "member"; }
  void Shutdown() override {
    pending_ = nullptr;
    watch_.reset();
  }

  // From now on calls fail with this; OK: they do not.
  void Fail(const absl::Status& status) { failure_ = status; }
  // Answers the call that waits. False: none does.
  bool Answer() {
    if (pending_ == nullptr) return false;
    std::exchange(pending_, nullptr)();
    return true;
  }
  // Answers calls, and those that follow from them, until none waits.
  void AnswerAll() {
    while (Answer()) {
    }
  }
  bool is_waiting() const { return pending_ != nullptr; }
  bool is_watching() const { return watch_ != nullptr && !watch_->closed; }
  // Brings the watch what has happened since it last heard, in one response.
  void Notify() {
    if (!is_watching()) return;
    etcdserverpb::WatchResponse response;
    if (watch_->next_revision <= store_->compacted()) {
      response.set_canceled(true);
      response.set_compact_revision(store_->compacted() + 1);
    }
    for (const FakeEtcdStore::Event& event : store_->events()) {
      if (event.revision < watch_->next_revision || response.canceled()) continue;
      mvccpb::Event& told = *response.add_events();
      told.mutable_kv()->set_key(event.key);
      if (event.value.has_value()) {
        told.mutable_kv()->set_value(event.value->bytes);
      } else {
        told.set_type(mvccpb::Event::DELETE);
      }
    }
    watch_->next_revision = store_->revision() + 1;
    const auto watch = watch_;  // what it says may end it
    watch->handler->OnMessage(std::move(response));
  }
  void CutWatch() {
    const auto watch = std::exchange(watch_, nullptr);
    watch->handler->OnClosed(absl::UnavailableError("cut"));
  }

  const std::vector<std::string>& calls() const { return calls_; }
  void ForgetCalls() { calls_.clear(); }
  size_t num_switches() const { return num_switches_; }

 private:
  struct WatchCall final : MessageSink<etcdserverpb::WatchRequest> {
    bool Write(etcdserverpb::WatchRequest request) override {
      next_revision = request.create_request().start_revision();
      return true;
    }
    void Close(absl::Status) override { closed = true; }
    std::shared_ptr<MessageHandler<etcdserverpb::WatchResponse>> handler;
    int64_t next_revision = 0;
    bool closed = false;
  };

  template <typename Response, typename Make>
  void Ask(const std::string& name, Done<Response> done, Make make) {
    calls_.push_back(name);
    pending_ = [this, done = std::move(done), make = std::move(make)] {
      if (!failure_.ok()) return done(failure_);
      done(make());
    };
  }

  FakeEtcdStore* const store_;
  absl::Status failure_;
  std::function<void()> pending_;
  std::shared_ptr<WatchCall> watch_;
  std::vector<std::string> calls_;
  size_t num_switches_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_FAKE_ETCD_H_
