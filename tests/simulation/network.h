#ifndef QUIRE_TESTS_SIMULATION_NETWORK_H_
#define QUIRE_TESTS_SIMULATION_NETWORK_H_

#include <quire/worker/v1/worker.pb.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/message_stream.h"
#include "tests/simulation/event_queue.h"

namespace quire {

// A way between two processes. Messages take a random time, but none overtakes another of the same
// direction; none arrives before `blocked_until`, and nobody is told why.
struct SimPath {
  int64_t min_delay = 100;
  int64_t max_delay = 1'000;
  int64_t blocked_until = 0;

  int64_t Arrival(int64_t now, SimRandom* random) const {
    return std::max(now, blocked_until) + random->Range(min_delay, max_delay);
  }
};

// A session between a coordinator and a worker, with bounds, ends and order as those of
// common/grpc_stream.h.
class SimSession final : public std::enable_shared_from_this<SimSession> {
 public:
  using Request = worker::v1::SessionRequest;
  using Event = worker::v1::SessionEvent;

  SimSession(SimProcess* coordinator, SimProcess* worker, const SimPath* path, SimRandom* random,
             SimTrace* trace, size_t max_messages)
      : path_(path),
        random_(random),
        trace_(trace),
        max_messages_(max_messages),
        to_coordinator_{coordinator, "event"},
        to_worker_{worker, "request"} {}

  // `connect`: the worker's end, made when the connection arrives there. Without it nobody listens.
  std::shared_ptr<MessageSink<Request>> Open(
      std::shared_ptr<MessageHandler<Event>> handler,
      std::function<std::shared_ptr<MessageHandler<Request>>(std::shared_ptr<MessageSink<Event>>)>
          connect);

  // The connection fails: each end hears of it at its own time, and what is sent in between is
  // lost.
  void Cut(int64_t coordinator_hears_at, int64_t worker_hears_at);
  // The process at that end is gone: it hears nothing any more, and the other end at its time.
  void LoseCoordinator(int64_t worker_hears_at);
  void LoseWorker(int64_t coordinator_hears_at);

  bool is_over() const {
    return to_coordinator_.handler == nullptr && to_worker_.handler == nullptr && !connecting_;
  }
  // The most messages that waited for a reader.
  size_t max_waiting() const { return max_waiting_; }

 private:
  template <typename T>
  struct Lane {
    SimProcess* to;
    const char* name;
    std::shared_ptr<MessageHandler<T>> handler = nullptr;  // null once it has heard OnClosed
    std::deque<T> messages = {};                           // not yet taken
    size_t num_arriving = 0;  // of them, from the first on: the rest is lost
    int64_t last_arrival = 0;
    bool is_lost = false;    // what is sent from now on does not arrive
    bool is_closed = false;  // nothing can be sent
  };
  template <typename In, typename Out>
  class Sink;

  template <typename In, typename Out>
  bool Write(Lane<Out>* out, Lane<In>* in, Out message);
  template <typename In, typename Out>
  void Close(Lane<Out>* out, Lane<In>* in, const absl::Status& status);
  // The reader of `in` hears OnClosed, and can send nothing from then on.
  template <typename In, typename Out>
  void Tell(Lane<In>* in, Lane<Out>* out, int64_t at, const absl::Status& status);
  template <typename T>
  int64_t Arrival(Lane<T>* lane);
  template <typename T>
  void Deliver(Lane<T>* lane);
  template <typename T>
  void LoseMessages(Lane<T>* lane);

  const SimPath* const path_;
  SimRandom* const random_;
  SimTrace* const trace_;
  const size_t max_messages_;
  Lane<Event> to_coordinator_;
  Lane<Request> to_worker_;
  bool connecting_ = false;
  size_t max_waiting_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_NETWORK_H_
