#ifndef QUIRE_WORKER_RPC_SESSION_TABLE_H_
#define QUIRE_WORKER_RPC_SESSION_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <quire/worker/v1/worker.pb.h>
#include "absl/container/flat_hash_map.h"
#include "common/message_stream.h"
#include "common/mutex.h"
#include "worker/engine/engine_inbox.h"
#include "worker/engine/engine_loop.h"

namespace quire {

// The sessions of a worker: one for each coordinator_id, whatever connection carries it at the moment.
//
// Requests go to the engine, and each step's output is sorted into one message a session. A session
// whose connection is lost keeps its live requests for a grace period: the coordinator comes back and
// reclaims them, or they are cancelled. The engine never waits here: a connection whose outbox is full
// counts as lost.
//
// Thread safe. Calls from the engine's thread (EngineListener) and from connections may interleave.
class SessionTable final : public EngineListener {
 public:
  using Sink = MessageSink<worker::v1::SessionEvent>;
  using Handler = MessageHandler<worker::v1::SessionRequest>;

  // What is worth a log line and a metric when a request ends.
  struct RequestRecord {
    std::string request_id;
    std::string coordinator_id;
    absl::Status status;
    uint32_t choices = 0;
    uint32_t prompt_tokens = 0;
    uint32_t cached_tokens = 0;
    uint32_t output_tokens = 0;
    Micros queued = 0;
    Micros first_token = -1;  // since its arrival; -1: none came
    Micros total = 0;
  };

  struct Options {
    worker::v1::WorkerInfo info;
    std::string incarnation;
    Micros orphan_grace = 10'000'000;
    std::function<Micros()> clock;
    std::function<void(const RequestRecord&)> on_request_end;    // may be null
    std::function<void(const worker::v1::Load&)> on_load;        // may be null; must return at once
    std::function<void(const absl::Status&)> on_fatal;
  };
  SessionTable(Options options);
  ~SessionTable() override;

  // REQUIRES: called once, before any connection; the inbox outlives all calls.
  void SetInbox(EngineInbox* inbox) { inbox_ = inbox; }

  // The name, where it depends on the port. REQUIRES: called before coordinators know the worker.
  void SetName(const std::string& name);
  worker::v1::WorkerInfo info() const;
  const std::string& incarnation() const { return options_.incarnation; }

  // A new connection. The handler takes its messages, the first of which must be Open.
  std::unique_ptr<Handler> Connect(std::shared_ptr<Sink> sink);

  // To be called some times a second: sends loads and ends orphans whose grace period is over.
  void Tick();

  // From now on requests are refused with UNAVAILABLE; those that run go on.
  void StartDraining();
  // Ends what still lives, with UNAVAILABLE.
  void EndAll();
  // Waits until no request lives, or until `deadline` (steady clock, microseconds). True: none does.
  bool WaitUntilIdle(Micros deadline);

  void OnOutput(EngineOutput& output) override;
  void OnRejected(RequestKey key, uint32_t attempt, const absl::Status& status) override;
  void OnLoad(const EngineLoad& load) override;
  void OnFatal(const absl::Status& status) override { options_.on_fatal(status); }

  worker::v1::Load load() const;

 private:
  struct Choice {
    uint32_t first_index = 0;     // of tokens[0], in the choice's output
    std::vector<TokenId> tokens;  // what this worker made, to be replayed to one who reclaims
    bool finished = false;
    worker::v1::Finish finish;
  };
  struct Request {
    uint64_t key = 0;
    uint32_t attempt = 0;
    std::string request_id;
    std::vector<Choice> choices;
    bool has_logprobs = false;
    bool cancelled = false;
    std::optional<Micros> orphaned_at;  // its session's connection was lost then
    Micros arrived_at = 0;
    Micros first_token_at = -1;
  };
  struct Session {
    std::string coordinator_id;
    std::shared_ptr<Sink> sink;  // null while no connection carries it
    uint64_t connection = 0;     // which one, to tell a late end of an earlier one
    absl::flat_hash_map<uint64_t, std::unique_ptr<Request>> requests;
    worker::v1::SessionEvent pending;  // of the output being sorted
    bool has_pending = false;
  };
  class Connection;

  void HandleOpen(Connection* connection, const worker::v1::Open& open);
  void HandleSubmit(uint32_t session, const worker::v1::Submit& submit);
  void HandleCancel(uint32_t session, const worker::v1::Cancel& cancel);
  void HandleReclaim(uint32_t session, const worker::v1::Reclaim& reclaim);
  void HandlePing(uint32_t session, const worker::v1::Ping& ping);
  void HandleLost(uint32_t session, uint64_t connection);

  void Send(Session& session, worker::v1::SessionEvent event) QUIRE_REQUIRES(mutex_);
  void Reject(Session& session, uint64_t key, uint32_t attempt, const absl::Status& status)
      QUIRE_REQUIRES(mutex_);
  Request* Find(RequestKey key, uint32_t attempt) QUIRE_REQUIRES(mutex_);
  worker::v1::StepOutput& Pending(uint32_t session) QUIRE_REQUIRES(mutex_);
  // Forgets a request all of whose choices have ended and been told.
  void EraseIfDone(uint32_t session, Request* request) QUIRE_REQUIRES(mutex_);
  void Drop(uint32_t session, uint64_t key) QUIRE_REQUIRES(mutex_);
  void Report(const Session& session, const Request& request) QUIRE_REQUIRES(mutex_);

  const Options options_;
  EngineInbox* inbox_ = nullptr;

  mutable Mutex mutex_;
  CondVar idle_;
  worker::v1::WorkerInfo info_ QUIRE_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Session>> sessions_ QUIRE_GUARDED_BY(mutex_);  // by number
  std::map<std::string, uint32_t> by_coordinator_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, RequestKey> by_request_id_ QUIRE_GUARDED_BY(mutex_);
  std::vector<uint32_t> pending_sessions_ QUIRE_GUARDED_BY(mutex_);
  uint64_t next_connection_ QUIRE_GUARDED_BY(mutex_) = 1;
  size_t num_requests_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool draining_ QUIRE_GUARDED_BY(mutex_) = false;
  worker::v1::Load load_ QUIRE_GUARDED_BY(mutex_);
  uint64_t output_tokens_ QUIRE_GUARDED_BY(mutex_) = 0;
  // For tokens a second: what had been made at the last rate measurement.
  uint64_t rate_tokens_ QUIRE_GUARDED_BY(mutex_) = 0;
  Micros rate_since_ QUIRE_GUARDED_BY(mutex_) = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_SESSION_TABLE_H_
