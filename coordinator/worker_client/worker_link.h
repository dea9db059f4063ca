#ifndef QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_LINK_H_
#define QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <quire/worker/v1/worker.pb.h>
#include "absl/container/flat_hash_map.h"
#include "common/mutex.h"
#include "coordinator/model/model_catalog.h"
#include "coordinator/stream/timers.h"
#include "coordinator/stream/work_pool.h"
#include "coordinator/worker_client/token_receiver.h"
#include "coordinator/worker_client/worker_connector.h"
#include "scheduler/placement/worker_snapshot.h"

namespace quire {

// What there is to know of a worker at a moment.
struct WorkerView {
  WorkerNumber number = 0;
  std::string address;
  std::string incarnation;
  worker::v1::WorkerInfo info;  // empty until the first session
  worker::v1::Load load;
  v1::WorkerLoad::State state = v1::WorkerLoad::STARTING;
  std::string why;       // it is not READY
  bool is_open = false;  // a process has a session with us
  bool answers = false;  // and is neither silent nor deaf, nor does its engine hang
  std::shared_ptr<const ServedModel> model;  // not null when READY
  WorkerSnapshot snapshot;
};

// The coordinator's end of one worker: keeps a session to it for ever, fetches its model's files,
// and carries the requests placed there. A session that is lost takes its requests away
// (OnWorkerLost) and is opened again at most kRetryMicros later; so does silence, though the
// session stays: a worker that answers again is told to forget them. Thread safe.
class WorkerLink final : public std::enable_shared_from_this<WorkerLink> {
 public:
  static constexpr int64_t kRetryMicros = 250'000;
  // Files that cannot be used are fetched again after this long, then after twice as long each
  // time.
  static constexpr int64_t kFirstReloadMicros = 250'000;
  static constexpr int64_t kLastReloadMicros = 30'000'000;
  static int64_t ReloadDelay(uint32_t num_failures);
  // A session this long without a word, though it was pinged, makes the worker SUSPECT, and its
  // requests are taken away. The default of Context::silence_micros.
  static constexpr int64_t kSilenceMicros = 1'500'000;
  // So does a worker whose words come, but that has answered no ping for this long where a silence
  // may be `silence_micros`: the network may be cut one way. It is longer, since an answer waits
  // its turn where a worker has much to do.
  static constexpr int64_t DeafMicros(int64_t silence_micros) { return silence_micros * 10 / 3; }
  // So does an engine that has had work this long and settled no step: its process answers, but it
  // hangs.
  static constexpr int64_t kHangMicros = 30'000'000;
  // Open has had no answer for so long: the session is given up, and another one begun. A
  // connection that broke at one end alone would else stand until its keepalive notices.
  static constexpr int64_t kOpenMicros = 10'000'000;
  // Between two calls of Tick; after a longer pause it was this process that stood still.
  static constexpr int64_t kMaxTickMicros = 750'000;

  struct Context {
    std::string coordinator_id;
    Timers* timers;
    WorkPool* loader;  // where models are made of their files
    ModelCatalog* catalog;
    // Asked when a session has opened, without locks held: may this worker serve under its name?
    std::function<absl::Status(const WorkerLink&, const worker::v1::Opened&)> admit;
    // Several times the period of Tick.
    int64_t silence_micros = kSilenceMicros;
  };

  static std::shared_ptr<WorkerLink> Create(WorkerNumber number, std::string address,
                                            std::unique_ptr<WorkerConnector> connector,
                                            const Context& context);
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  void Start() { Connect(); }
  // Ends the session for good; its requests are told `status`.
  void Shutdown(const absl::Status& status);
  // After Shutdown: waits until the transport has let go of the link, so that what the link was
  // made with may go too.
  void WaitUntilReleased();
  // The process behind the address is another one now: opens a new session at once.
  void Restart(const std::string& why);
  // To be called some times a second: pings the worker, and takes its requests away if it is
  // silent, deaf or hangs.
  void Tick();

  WorkerNumber number() const { return number_; }
  const std::string& address() const { return address_; }
  WorkerView View() const;

  // Sends a request. Its key must be new here; `receiver` hears all that follows until every choice
  // of it has ended. False: there is no session now.
  bool Submit(worker::v1::Submit submit, std::shared_ptr<TokenReceiver> receiver);
  // Cancels a submitted request or one choice of it. Its finish still comes.
  void Cancel(worker::v1::Cancel cancel);

 private:
  class SessionHandler;
  // Counts what the transport holds that may call into the link.
  class Holds;
  struct Request {
    std::shared_ptr<TokenReceiver> receiver;
    uint32_t attempt = 0;
    uint32_t num_running = 0;  // choices that have not ended
    uint32_t running = 0;      // bit i: choice i is one of them; a request has at most 8
  };

  WorkerLink(WorkerNumber number, std::string address, std::unique_ptr<WorkerConnector> connector,
             const Context& context);
  void Connect();
  void OnOpened(uint64_t session, const worker::v1::Opened& opened);
  void FetchModel(uint64_t session);
  // Fetches once the catalog would take the files that it refused.
  void AwaitName(uint64_t session, const std::string& refused_digest);
  void OnFiles(uint64_t session, absl::StatusOr<ModelFiles> files);
  void OnModel(uint64_t session, const absl::StatusOr<std::shared_ptr<const ServedModel>>& model,
               const std::string& refused_digest);
  void OnEvent(uint64_t session, worker::v1::SessionEvent event);
  void OnStepOutput(const worker::v1::StepOutput& output);
  void OnRejected(const worker::v1::Rejected& rejected);
  void OnClosed(uint64_t session, const absl::Status& status);
  // Whether it is the session now, and has not ended.
  bool IsLive(uint64_t session) const QUIRE_REQUIRES(mutex_) {
    return session == session_ && closed_session_ < session;
  }
  // False: nothing was done, since `which` is given and is live no more.
  bool EndSession(WorkerLoss loss, const absl::Status& status,
                  std::optional<uint64_t> which = std::nullopt);
  // Silent or deaf, where a silence may be `silence_micros`.
  bool IsUnheard(int64_t now, int64_t silence_micros) const QUIRE_REQUIRES(mutex_);
  // Why an open session's worker is not to be relied on, to go after its name; empty if it is.
  std::string SuspectWhy(int64_t now) const QUIRE_REQUIRES(mutex_);
  // The session stays; its requests are told `status`, and the worker to forget them.
  void TakeRequestsAway(WorkerLoss loss, const absl::Status& status);
  void OnLoad(uint64_t session, const worker::v1::Load& load);
  // Why the worker cannot be used. False: that was the reason the last time, too.
  bool SetWhy(const absl::Status& status) QUIRE_REQUIRES(mutex_);
  void RetryAfter(int64_t delay, std::function<void(WorkerLink&)> what);
  std::shared_ptr<TokenReceiver> Receiver(uint64_t key, uint32_t attempt) QUIRE_REQUIRES(mutex_);

  const WorkerNumber number_;
  const std::string address_;
  const std::unique_ptr<WorkerConnector> connector_;
  const Context context_;
  const std::shared_ptr<Holds> holds_;

  mutable Mutex mutex_;
  uint64_t session_ QUIRE_GUARDED_BY(mutex_) =
      0;  // counts sessions; late words of old ones are ignored
  uint64_t closed_session_ QUIRE_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<WorkerConnector::Sink> sink_ QUIRE_GUARDED_BY(mutex_);  // null without a session
  bool opened_ QUIRE_GUARDED_BY(mutex_) = false;  // the session's Opened came and was admitted
  bool was_ready_ QUIRE_GUARDED_BY(mutex_) = false;
  bool shut_down_ QUIRE_GUARDED_BY(mutex_) = false;
  std::string why_ QUIRE_GUARDED_BY(mutex_) = "connecting";
  std::string reported_why_ QUIRE_GUARDED_BY(mutex_);  // in the log
  std::string incarnation_ QUIRE_GUARDED_BY(mutex_);
  worker::v1::WorkerInfo info_ QUIRE_GUARDED_BY(mutex_);
  worker::v1::Load load_ QUIRE_GUARDED_BY(mutex_);
  int64_t heard_at_ QUIRE_GUARDED_BY(mutex_) = 0;
  int64_t answered_at_ QUIRE_GUARDED_BY(mutex_) = 0;  // the last ping
  int64_t ticked_at_ QUIRE_GUARDED_BY(mutex_) = 0;
  int64_t since_progress_ QUIRE_GUARDED_BY(mutex_) = 0;  // of the engine, as the last Pong said
  uint64_t pings_ QUIRE_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<const ServedModel> model_ QUIRE_GUARDED_BY(mutex_);
  WorkerConnector::CancelFetch cancel_fetch_ QUIRE_GUARDED_BY(mutex_);  // may be null
  // Of this incarnation, in a row: tries that gave no model.
  uint32_t num_load_failures_ QUIRE_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Request> requests_ QUIRE_GUARDED_BY(mutex_);
  uint32_t num_sequences_ QUIRE_GUARDED_BY(mutex_) = 0;  // sum of num_running
  // By key, so that requests which have waited longest look for another worker first.
  using Taken = std::vector<std::pair<uint64_t, Request>>;
  Taken TakeRequests() QUIRE_REQUIRES(mutex_);
  static void WriteCancel(uint64_t key, WorkerConnector::Sink* sink);

  // Keys that were alive when a session was lost: cancelled when the same process is back.
  std::vector<uint64_t> lost_keys_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_WORKER_CLIENT_WORKER_LINK_H_
