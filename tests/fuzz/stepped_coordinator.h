#ifndef QUIRE_TESTS_FUZZ_STEPPED_COORDINATOR_H_
#define QUIRE_TESTS_FUZZ_STEPPED_COORDINATOR_H_

#include <quire/v1/inference.pb.h>
#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "coordinator/registry/placer.h"
#include "coordinator/registry/worker_registry.h"
#include "coordinator/stream/request_stream.h"
#include "coordinator/stream/timer_queue.h"

namespace quire {

// What was sent on one session of a SteppedCoordinator, and its end.
struct SteppedSession {
  std::shared_ptr<WorkerConnector::Handler> handler;  // null once it has heard OnClosed
  Mutex mutex;
  std::deque<worker::v1::SessionRequest> sent QUIRE_GUARDED_BY(mutex);
  std::optional<absl::Status> closed QUIRE_GUARDED_BY(mutex);
};

// A coordinator of one worker, whose words the caller says: the real registry, link, placer and
// streams. Messages move when the caller moves them; threads are there for models and timers alone.
// Made once a process, since they cost more than an input does.
class SteppedCoordinator {
 public:
  SteppedCoordinator();

  // Ends the session there is, with all requests, and begins another.
  void Connect();
  // As a worker greets, with nothing running. Returns when the model is loaded.
  void Greet(const worker::v1::WorkerInfo& info);
  // Waits until models that were asked for are there.
  void WaitForModels();
  // The session that is open now; null: there is none.
  std::shared_ptr<SteppedSession> session();
  // What was sent since the last call.
  std::deque<worker::v1::SessionRequest> TakeSent();
  // Says a worker's word, and what follows from sessions that were closed.
  void Say(const worker::v1::SessionEvent& event);
  // The connection is lost.
  void Lose();

  WorkerRegistry& registry() { return registry_; }
  WorkerView View() const { return registry_.Views().front(); }

  absl::StatusOr<PreparedRequest> Prepare(const v1::GenerateRequest& request,
                                          const std::string& request_id) const;
  RequestStream::Context MakeContext();

 private:
  class Connector;
  class Sink;
  void DeliverEnds();
  std::vector<std::shared_ptr<SteppedSession>> Sessions();

  Mutex mutex_;
  std::vector<std::shared_ptr<SteppedSession>> sessions_ QUIRE_GUARDED_BY(mutex_);
  TimerQueue timers_;
  WorkPool loader_;
  ModelCatalog catalog_;
  WorkerRegistry registry_;
  Placer placer_;
};

// A client that takes every event at once and checks the stream that it is sent.
class CheckingClient final : public ClientSink,
                             public std::enable_shared_from_this<CheckingClient> {
 public:
  CheckingClient(std::shared_ptr<RequestStream> stream, ResumeTokens resume);

  void Kick() override;
  void Abort(const absl::Status& status) override;

  // Empty while the stream goes on.
  const std::optional<absl::Status>& status() const { return status_; }
  const std::optional<v1::Accepted>& accepted() const { return accepted_; }
  const std::vector<uint32_t>& tokens(uint32_t choice) { return tokens_[choice]; }
  const std::map<uint32_t, v1::Finished>& finished() const { return finished_; }

 private:
  void Take(const v1::GenerateEvent& event);
  void CheckEnd() const;

  const std::shared_ptr<RequestStream> stream_;
  RequestStream::Cursor cursor_;
  ResumeTokens resume_;
  std::optional<absl::Status> status_;
  std::optional<v1::Accepted> accepted_;
  std::map<uint32_t, std::vector<uint32_t>> tokens_;  // those resumed included
  std::map<uint32_t, v1::Finished> finished_;
};

// A client is told of a refusal: the code, the field, words that are UTF-8 and fit into trailers.
void CheckTold(const absl::Status& status);

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_STEPPED_COORDINATOR_H_
