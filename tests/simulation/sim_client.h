#ifndef QUIRE_TESTS_SIMULATION_SIM_CLIENT_H_
#define QUIRE_TESTS_SIMULATION_SIM_CLIENT_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "clients/cpp/retry_policy.h"
#include "clients/cpp/stream_progress.h"
#include "tests/simulation/event_queue.h"
#include "tests/simulation/network.h"
#include "tests/simulation/sim_coordinator.h"
#include "tests/simulation/workload.h"

namespace quire {

// What is counted over simulations: that a fault happened at all, for one.
using SimCounts = std::map<std::string, uint64_t>;

class SimClient;

// A client's connection to a coordinator.
struct SimConnection {
  SimClient* client = nullptr;
  size_t target = 0;
  std::shared_ptr<SimCall> call;  // null until the request has arrived
  bool is_lost = false;           // nothing arrives any more
  bool is_over = false;           // the client has heard its end
  int64_t last_to_client = 0;
  int64_t last_to_server = 0;
};

// A client by the rule of the client library, whose StreamProgress and RetryPolicy decide, as they
// do in clients/cpp/client_stream.cc. Checks every event against what the request must give.
class SimClient final {
 public:
  struct World {
    EventQueue* queue;
    SimRandom* random;
    SimTrace* trace;
    SimCounts* counts;
    std::vector<SimCoordinator*> coordinators;
    std::vector<const SimPath*> paths;  // to each of them
    std::function<void(const std::string&)> fail;
    uint32_t quarantine_after = 0;
    // As coordinators see them: connections that end are deaths, and engines that hang.
    uint64_t num_worker_deaths = 0;
  };
  struct Plan {
    const SimRequest* request = nullptr;
    int64_t start_at = 0;
    enum class Cancel { kNever, kByCall, kByLeaving } cancel = Cancel::kNever;
    int64_t cancel_at = 0;
    int64_t write_micros = 10;        // until it has taken an event
    std::set<absl::StatusCode> ends;  // other than OK that it may come to
  };
  SimClient(uint32_t number, const World* world, const Plan& plan);

  uint32_t number() const { return number_; }
  const Plan& plan() const { return plan_; }
  const std::optional<absl::Status>& result() const { return result_; }
  const std::shared_ptr<SimConnection>& connection() const { return connection_; }
  std::string Describe() const;

  // Its connection fails; each end hears of it at its own time. Nothing happens without one.
  void Cut(int64_t client_hears_at, int64_t server_hears_at);

 private:
  class Peer;
  void Connect();
  void Disconnect();
  void CancelNow();
  v1::GenerateRequest RequestForNow() const;
  void OnEvent(const SimConnection& connection, v1::GenerateEvent event);
  void OnEnd(SimConnection& connection, const absl::Status& status);
  void CheckRaw(const v1::GenerateEvent& event);
  void Deliver(const v1::GenerateEvent& event);
  void End(const absl::Status& status);
  void Fail(const std::string& what);
  int64_t ToServer(SimConnection& connection) const;

  const uint32_t number_;
  const World* const world_;
  const Plan plan_;
  RetryPolicy policy_;
  StreamProgress progress_;
  size_t target_;
  bool cancelled_ = false;
  std::shared_ptr<SimConnection> connection_;
  std::optional<absl::Status> result_;
  std::vector<ExpectedChoice> got_;
  std::vector<bool> finished_;
  int64_t last_token_at_;  // or when it began
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_SIM_CLIENT_H_
