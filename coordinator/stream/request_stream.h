#ifndef QUIRE_COORDINATOR_STREAM_REQUEST_STREAM_H_
#define QUIRE_COORDINATOR_STREAM_REQUEST_STREAM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <quire/v1/inference.pb.h>
#include "absl/status/status.h"
#include "common/mutex.h"
#include "coordinator/registry/placer.h"
#include "coordinator/stream/choice_output.h"
#include "coordinator/stream/stream_output.h"
#include "coordinator/stream/timers.h"
#include "coordinator/worker_client/token_receiver.h"

namespace quire {

// The client's end of a stream, as the request sees it. Thread safe; neither call blocks, and none
// is made with a lock of the stream's held.
class ClientSink {
 public:
  virtual ~ClientSink() = default;
  // There is something to Take, maybe.
  virtual void Kick() = 0;
  // The stream does not serve this client any more.
  virtual void Abort(const absl::Status& status) = 0;
};

// A request that has passed every check: from here on nothing looks at the client's fields again.
struct PreparedRequest {
  std::shared_ptr<const ServedModel> model;
  v1::Engine engine = v1::PAGED;
  std::string worker;  // the only one allowed; empty: any
  std::vector<uint32_t> prompt;
  v1::ResolvedParameters parameters;
  std::string cache_salt;  // of the request, and its tenant where tenants are separate
  std::string tenant;
  ResumeTokens emitted;
  std::string numerics_id;  // that the client's tokens are of; empty: any
};

// What a log line and the metrics say of a request that has ended.
struct RequestRecord {
  std::string request_id;
  std::string model;
  std::string worker;
  std::string tenant;
  absl::Status status;
  uint32_t choices = 0;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t output_tokens = 0;
  int64_t first_token = -1;  // microseconds since it came; -1: none did
  int64_t total = 0;
};

// One request's life: prepared, placed, running, ended. It holds every token that the client may
// still need, so a slow reader gets fewer, larger messages, and a second client (a retry, a resume)
// can take the stream over from any index.
//
// A worker's token is accepted only if it belongs to the current attempt and has the next index of
// its choice.
//
// A request of the paged engine outlives its worker: when that is lost, it goes on from its last
// token at a worker that gives the same bits (an equal numerics_id), or waits for one. Thread safe.
class RequestStream final : public TokenReceiver,
                            public std::enable_shared_from_this<RequestStream> {
 public:
  struct Context {
    Placer* placer;
    Timers* timers;
    // How long a request that lost its worker waits for an equal one, in microseconds.
    int64_t move_timeout = 30'000'000;
    // A request that so many workers died with, one after the other and without kClearingTokens
    // between, is a suspect: it runs alone on a worker until those have come, and ends if that dies
    // as well. 0: none is.
    uint32_t quarantine_after = 2;
    std::function<void(RequestStream&, const RequestRecord&)> on_end;  // once, without locks held
    std::function<void(RequestStream&)> on_quarantined;                // may be null
    std::function<void(int64_t micros)> on_first_token;                // may be null
    std::function<void(int64_t micros, uint32_t num_tokens)> on_token_gap;  // may be null
  };
  // `key` names the request for ever within this coordinator. It came at `received_at` (steady,
  // microseconds), or now.
  RequestStream(uint64_t key, std::string request_id, std::string fingerprint,
                const Context& context, std::optional<int64_t> received_at = std::nullopt);

  const std::string& request_id() const { return request_id_; }
  // Of the request's body, without what may differ between tries.
  const std::string& fingerprint() const { return fingerprint_; }

  // The deaths of workers that count against the request (steady, microseconds), for another one
  // with the same body. To be taken over before Begin.
  std::vector<int64_t> losses() const;
  void TakeLosses(std::vector<int64_t> losses);

  // --- The client ---

  using Cursor = StreamCursor;
  using Taken = StreamOutput::Taken;

  // Serves this client from now on; the one before is told ABORTED. A client that has tokens
  // already waits until the stream has them too, and the one before is served meanwhile: if they
  // differ, the new one is told INVALID_ARGUMENT, and the request is none of its own. Where no
  // client is served, the new one does not wait. `deadline` (steady, microseconds; `deadline_name`
  // says which limit that is) ends the request, or the waiting of a client that waits still.
  //
  // False, and nothing is done: the request has failed, as other clients were told.
  [[nodiscard]] bool Attach(std::shared_ptr<ClientSink> sink, ResumeTokens resume,
                            std::optional<int64_t> deadline, const std::string& deadline_name);
  // The client went away. The request goes on with one that waits; without any it is cancelled.
  // Does nothing for a client that has been superseded.
  void ClientGone(const ClientSink* sink);

  // The next event for a client at `cursor`, as large as there is; or the end, with its status.
  Taken Take(Cursor* cursor, v1::GenerateEvent* event, absl::Status* status);

  // --- The request ---

  // Ends it with DEADLINE_EXCEEDED if, this long after it came, no worker has it. The worker that
  // has it minds the time itself. To be called at most once, before Begin.
  void LimitQueueing(uint32_t queue_timeout_ms);
  // Places it and sends it off. Ends it if that fails.
  void Begin(PreparedRequest request);
  // Ends it at once. Clients get a Finished for each open choice, if they saw Accepted, and the
  // status.
  void End(const absl::Status& status);
  // Ends it with CANCELLED once the worker has said what was used.
  void Cancel();

  bool has_ended() const;
  // It has ended with another status than OK.
  bool has_failed() const;
  // Approximate bytes that it holds.
  size_t num_bytes() const;

  void OnPromptLogprobs(const worker::v1::EntryLogprobs& logprobs) override;
  void OnTokens(uint32_t attempt, uint32_t choice, uint32_t first_index,
                absl::Span<const uint32_t> ids, const worker::v1::EntryLogprobs* logprobs) override;
  void OnNotice(const v1::Notice& notice) override;
  void OnFinish(const worker::v1::Finish& finish) override;
  void OnRejected(uint32_t attempt, const absl::Status& status) override;
  void OnWorkerLost(uint32_t attempt, WorkerLoss loss, const absl::Status& status) override;
  void OnWorkerDraining(uint32_t attempt) override;
  void OnMessageEnd() override;

 private:
  // Tokens of each choice. The same tokens come wherever a request runs, and so would the death of
  // a worker by it: one that has come this far beyond where a worker died did not kill that. Two
  // blocks of KV memory, since a block's beginning is a likely place to die at.
  static constexpr size_t kClearingTokens = 32;
  // A notice says that timing changed, so those beyond this many say nothing new.
  static constexpr size_t kMaxNotices = 64;

  // What is left to do when the lock is released.
  struct Effects {
    std::shared_ptr<ClientSink> kick;
    std::vector<std::pair<std::shared_ptr<ClientSink>, absl::Status>> aborts;
    std::shared_ptr<WorkerLink> link;
    std::vector<worker::v1::Cancel> cancels;
    std::optional<RequestRecord> ended;
    std::vector<Timers::Id> cancel_timers;  // 0: none
    bool releases_worker = false;           // that was kept for it alone
    bool is_quarantined = false;
  };
  struct Client {
    std::shared_ptr<ClientSink> sink;  // null: there is none
    ResumeTokens resume;               // to be compared, while it waits
    Timers::Id deadline_timer = 0;
    uint64_t number = 0;
  };
  void Carry(const Effects& effects);

  // Brings the request to a worker: the first, or another one. While there is none, one that has
  // run tries again later.
  void PlaceAndSubmit();
  // What became of a placement: the request has a worker, or has ended, or waits; or there is more
  // to try.
  enum class Placed { kDone, kTryMore };
  // `as_suspect`: the worker may be kept for it.
  Placed SubmitTo(const std::shared_ptr<WorkerLink>& link, bool as_suspect);
  // No worker took it: goes on at the one that it has, waits, or ends.
  void StayUnplaced(const absl::Status& status, bool as_suspect);
  void Wait(const absl::Status& status, Effects* effects) QUIRE_REQUIRES(mutex_);
  // Whether another worker can go on with it.
  bool is_movable() const QUIRE_REQUIRES(mutex_) {
    return !cancelling_ && error_.ok() && request_.engine == v1::PAGED;
  }
  // Notes the end of choices that a stop string ended and whose worker did not come to say so.
  void FinishStopped() QUIRE_REQUIRES(mutex_);
  // It has no worker any more: what comes of the attempt is void.
  void LeaveWorker(const absl::Status& why) QUIRE_REQUIRES(mutex_);
  void StartMoving(absl::string_view why) QUIRE_REQUIRES(mutex_);
  // Whether the request is what its workers died of, as far as one can know.
  bool CountLoss(WorkerLoss loss) QUIRE_REQUIRES(mutex_);
  // Tokens count for ClearLosses from here on.
  void NoteTokensAtLoss() QUIRE_REQUIRES(mutex_);
  // New tokens have come: what they say of earlier losses.
  void ClearLosses(Effects* effects) QUIRE_REQUIRES(mutex_);
  // Whether it is a suspect that may wait for a worker to itself.
  bool MayRunAlone() const QUIRE_REQUIRES(mutex_);
  // What to ask the placer for; nothing once the request has ended, which a Cancel may bring here.
  std::optional<Placement> WantedPlacement(Effects* effects) QUIRE_REQUIRES(mutex_);
  worker::v1::Submit MakeSubmit() const QUIRE_REQUIRES(mutex_);
  void Accept(const WorkerView& view, bool drains) QUIRE_REQUIRES(mutex_);
  void EndLocked(const absl::Status& status, Effects* effects) QUIRE_REQUIRES(mutex_);
  void AbortChoice(uint32_t number) QUIRE_REQUIRES(mutex_);
  // Notes the end of a choice, whose text was flushed: STOP if a stop string ended it, else
  // `reason`.
  v1::Finished& FinishChoice(uint32_t number, v1::Finished::Reason reason) QUIRE_REQUIRES(mutex_);
  void TakeFinish(const worker::v1::Finish& finish, Effects* effects) QUIRE_REQUIRES(mutex_);
  void EndIfComplete(Effects* effects) QUIRE_REQUIRES(mutex_);
  void CancelAtWorker(std::optional<uint32_t> choice, Effects* effects) QUIRE_REQUIRES(mutex_);
  // Serves the clients that wait and whose tokens are the stream's; tells those off whose are not.
  void AdmitWaiting(Effects* effects) QUIRE_REQUIRES(mutex_);
  static absl::StatusOr<std::vector<ChoiceOutput>> StartChoices(const PreparedRequest& request);
  void OnDeadline(uint64_t client_number, const std::string& name);
  void OnQueueDeadline();
  // It waits for a worker, has not run as far as is known, and may not wait longer.
  bool is_queue_timeout(int64_t now) const QUIRE_REQUIRES(mutex_) {
    return queue_deadline_.has_value() && now >= *queue_deadline_ && link_ == nullptr &&
           first_token_at_ < 0;
  }
  absl::Status QueueTimeout() const QUIRE_REQUIRES(mutex_);
  RequestRecord MakeRecord(const absl::Status& status) const QUIRE_REQUIRES(mutex_);

  const uint64_t key_;
  const std::string request_id_;
  const std::string fingerprint_;
  const Context context_;
  const int64_t received_at_;

  mutable Mutex mutex_;
  Client client_ QUIRE_GUARDED_BY(mutex_);
  std::vector<Client> waiting_ QUIRE_GUARDED_BY(mutex_);  // to take over, in the order they came
  uint64_t num_clients_ QUIRE_GUARDED_BY(mutex_) = 0;     // ever
  PreparedRequest request_ QUIRE_GUARDED_BY(mutex_);
  StreamOutput output_ QUIRE_GUARDED_BY(mutex_);               // at most kMaxNotices notices
  size_t num_resumed_tokens_ QUIRE_GUARDED_BY(mutex_) = 0;     // the client had them when it began
  std::shared_ptr<WorkerLink> link_ QUIRE_GUARDED_BY(mutex_);  // of the current attempt
  std::string worker_name_ QUIRE_GUARDED_BY(mutex_);
  uint32_t attempt_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool is_placing_ QUIRE_GUARDED_BY(mutex_) = false;  // a thread is in PlaceAndSubmit
  // Since when it has lost its worker (steady, microseconds), and why; -1: a token has come since,
  // or it has had none. Earlier by `waited_`: how long it has been without a worker before, since
  // its last token, so that workers which take it and give it up cannot keep it for ever.
  int64_t moving_since_ QUIRE_GUARDED_BY(mutex_) = -1;
  int64_t waited_ QUIRE_GUARDED_BY(mutex_) = 0;
  std::string moving_why_ QUIRE_GUARDED_BY(mutex_);
  uint32_t num_move_tries_ QUIRE_GUARDED_BY(mutex_) = 0;  // since its last token
  Timers::Id move_timer_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool has_left_worker_ QUIRE_GUARDED_BY(mutex_) = false;  // one that had taken it
  // When workers died while they ran it (steady, microseconds); those that count, kLossMicros long.
  std::vector<int64_t> losses_ QUIRE_GUARDED_BY(mutex_);
  std::vector<uint32_t> num_tokens_at_loss_ QUIRE_GUARDED_BY(mutex_);  // at the last, by choice
  bool runs_alone_ QUIRE_GUARDED_BY(mutex_) = false;
  std::set<WorkerNumber> refused_ QUIRE_GUARDED_BY(mutex_);
  std::optional<uint32_t> retry_after_ms_ QUIRE_GUARDED_BY(mutex_);  // the least of what those said
  std::optional<int64_t> queue_deadline_ QUIRE_GUARDED_BY(mutex_);   // steady, microseconds
  Timers::Id queue_timer_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool cancelling_ QUIRE_GUARDED_BY(mutex_) = false;  // by Cancel
  absl::Status error_ QUIRE_GUARDED_BY(mutex_);       // of the first choice that failed
  int64_t first_token_at_ QUIRE_GUARDED_BY(mutex_) = -1;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_REQUEST_STREAM_H_
