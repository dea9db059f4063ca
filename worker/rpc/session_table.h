#ifndef QUIRE_WORKER_RPC_SESSION_TABLE_H_
#define QUIRE_WORKER_RPC_SESSION_TABLE_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/message_stream.h"
#include "common/mutex.h"
#include "scheduler/batch/queue_gate.h"
#include "worker/engine/engine_inbox.h"
#include "worker/engine/engine_loop.h"

namespace quire {

// The sessions of a worker: one for each coordinator_id, whatever connection carries it at the
// moment.
//
// Requests go to the engine, and each step's output is sorted into one message a session. A session
// whose connection is lost keeps its live requests for a grace period: the coordinator comes back
// and reclaims them, submits them again (which counts as a reclaim from the start), or they are
// cancelled; a Cancel of one that was not reclaimed ends it without an answer. The engine never
// waits here: a connection whose outbox is full counts as lost.
//
// Coordinators share what the worker takes, `info.limits`. While several are connected each has an
// equal share. One that has its share may use what others leave, but of the last quarter it gets
// nothing: there is always room for those that have less. One that has nothing may have a request
// of any size.
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
    TenantWeights tenant_weights;
    std::function<void(const RequestRecord&)> on_request_end;  // may be null
    std::function<void()> on_refused;  // for want of room; may be null; must return at once
    // From a choice's last tokens to its next, which are so many. May be null; must return at once.
    std::function<void(Micros gap, uint32_t num_tokens)> on_token_gap;
    std::function<void(const worker::v1::Load&)> on_load;  // may be null; must return at once
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

  // From now on requests are refused with UNAVAILABLE; those that run go on. How many do.
  size_t StartDraining();
  // Ends what still lives, with UNAVAILABLE. How many that were.
  size_t EndAll();
  // Requests that coordinators took to other workers since StartDraining.
  size_t num_moved() const;
  // Asks every coordinator to end its connection once it has read what was sent, or ends it itself
  // where the coordinator does not know how to. Takes no other.
  void CloseConnections();
  // Waits until no request lives, or until `deadline` (steady clock, microseconds). True: none
  // does.
  bool WaitUntilIdle(Micros deadline);
  // Likewise, until no session has a connection: every coordinator has read all, or is gone.
  bool WaitUntilClosed(Micros deadline);

  void OnOutput(EngineOutput& output) override;
  void OnRejected(RequestKey key, uint32_t placement, const absl::Status& status) override;
  void OnLoad(const EngineLoad& load) override;
  void OnFatal(const absl::Status& status) override { options_.on_fatal(status); }

  worker::v1::Load load() const;

 private:
  struct Choice {
    uint32_t first_index = 0;     // of tokens[0], in the choice's output
    std::vector<TokenId> tokens;  // what this worker made, to be replayed to one who reclaims
    Micros last_token_at = -1;
    bool cancelled = false;  // a Cancel of its own was posted
    bool finished = false;
    std::optional<worker::v1::Finish> finish;  // none if it had ended before it came here
    uint32_t next_index() const { return first_index + static_cast<uint32_t>(tokens.size()); }
  };
  struct Request {
    uint64_t key = 0;
    uint32_t attempt = 0;    // the coordinator's count
    uint32_t placement = 0;  // ours: what the engine says of an earlier one under this key is void
    std::string request_id;
    std::string tenant;
    uint32_t num_prompt_tokens = 0;
    std::vector<Choice> choices;
    bool has_logprobs = false;
    bool cancelled = false;
    std::optional<Micros> orphaned_at;  // its session's connection was lost then
    Micros arrived_at = 0;
    Micros first_token_at = -1;
  };
  struct Session {
    uint32_t number = 0;
    std::string coordinator_id;
    std::shared_ptr<Sink> sink;  // null while no connection carries it
    uint64_t connection = 0;     // which one, to tell a late word of an earlier one
    bool ends_call = false;      // its coordinator does, when told that the worker ends
    absl::flat_hash_map<uint64_t, std::unique_ptr<Request>> requests;
    uint32_t num_sequences = 0;        // choices of its requests that have not ended
    worker::v1::SessionEvent pending;  // of the output being sorted
    bool has_pending = false;
  };
  class Connection;

  void HandleOpen(Connection* connection, const worker::v1::Open& open);
  void HandleSubmit(const Connection& connection, const worker::v1::Submit& submit);
  void HandleCancel(const Connection& connection, const worker::v1::Cancel& cancel);
  void HandleReclaim(const Connection& connection, const worker::v1::Reclaim& reclaim);
  void HandlePing(const Connection& connection, const worker::v1::Ping& ping);
  void HandleLost(const Connection& connection);

  // The session that a connection carries; null if a newer one carries it, or it counts as lost.
  Session* CarriedBy(const Connection& connection) QUIRE_REQUIRES(mutex_);
  // Null if the request, or this placement of it, is forgotten.
  Request* Find(RequestKey key, uint32_t placement) QUIRE_REQUIRES(mutex_);
  worker::v1::StepOutput& Pending(uint32_t session) QUIRE_REQUIRES(mutex_);

  // A connection that does not take the event is lost.
  void Send(Session& session, worker::v1::SessionEvent event) QUIRE_REQUIRES(mutex_);
  void SendLoad() QUIRE_REQUIRES(mutex_);
  void SendLoad(Session& session) QUIRE_REQUIRES(mutex_);
  void Lose(Session& session) QUIRE_REQUIRES(mutex_);
  void Reject(Session& session, uint64_t key, uint32_t attempt, const absl::Status& status)
      QUIRE_REQUIRES(mutex_);
  // RESOURCE_EXHAUSTED: so many sequences more are beyond the share of the session's coordinator,
  // and what is left is for others.
  absl::Status CheckShare(const Session& session, uint32_t num_sequences) const
      QUIRE_REQUIRES(mutex_);
  // Gives an orphan to the session's connection, with its tokens from next_index on, one entry a
  // choice.
  void Adopt(Session& session, Request* request, const std::vector<uint32_t>& next_index)
      QUIRE_REQUIRES(mutex_);

  // Ahead of the step's message, in messages of their own: those of a long prompt fit into none.
  void SendPromptLogprobs(uint64_t step, const EngineOutput::Logprobs& logprobs)
      QUIRE_REQUIRES(mutex_);

  void EndChoice(Session* session, const Request& request, Choice* choice,
                 worker::v1::Finish finish) QUIRE_REQUIRES(mutex_);
  // Those for which `wanted` holds, by key.
  static std::vector<Request*> Select(const Session& session,
                                      const std::function<bool(const Request&)>& wanted);

  // Forgets a request all of whose choices have ended and been told.
  void EraseIfDone(Session& session, Request* request) QUIRE_REQUIRES(mutex_);
  // Cancels a request and forgets it. `ends` gets the ends of its running choices, unless it is
  // null.
  void Drop(Session& session, Request* request, const absl::Status& why,
            worker::v1::StepOutput* ends) QUIRE_REQUIRES(mutex_);
  void Report(const Session& session, const Request& request) QUIRE_REQUIRES(mutex_);

  const Options options_;
  EngineInbox* inbox_ = nullptr;

  mutable Mutex mutex_;
  CondVar idle_;
  CondVar unconnected_;
  bool closed_ QUIRE_GUARDED_BY(mutex_) = false;
  worker::v1::WorkerInfo info_ QUIRE_GUARDED_BY(mutex_);
  // By number; a number is never used again. Gone when nothing carries it and no request lives in
  // it.
  std::map<uint32_t, std::unique_ptr<Session>> sessions_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, uint32_t> by_coordinator_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, RequestKey> by_request_id_ QUIRE_GUARDED_BY(mutex_);
  std::vector<Session*> pending_sessions_ QUIRE_GUARDED_BY(mutex_);  // empty between outputs
  uint32_t next_session_ QUIRE_GUARDED_BY(mutex_) = 0;
  uint64_t next_connection_ QUIRE_GUARDED_BY(mutex_) = 1;
  uint32_t next_placement_ QUIRE_GUARDED_BY(mutex_) = 0;
  size_t num_requests_ QUIRE_GUARDED_BY(mutex_) = 0;
  QueueGate gate_ QUIRE_GUARDED_BY(mutex_);
  bool draining_ QUIRE_GUARDED_BY(mutex_) = false;
  size_t num_moved_ QUIRE_GUARDED_BY(mutex_) = 0;
  worker::v1::Load load_ QUIRE_GUARDED_BY(mutex_);
  uint64_t output_tokens_ QUIRE_GUARDED_BY(mutex_) = 0;
  // For tokens a second: what had been made at the last rate measurement.
  uint64_t rate_tokens_ QUIRE_GUARDED_BY(mutex_) = 0;
  Micros rate_since_ QUIRE_GUARDED_BY(mutex_) = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_SESSION_TABLE_H_
