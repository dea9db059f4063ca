#ifndef QUIRE_TESTS_SIMULATION_SIMULATION_H_
#define QUIRE_TESTS_SIMULATION_SIMULATION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/simulation/event_queue.h"
#include "tests/simulation/network.h"
#include "tests/simulation/sim_client.h"
#include "tests/simulation/sim_coordinator.h"
#include "tests/simulation/sim_worker.h"
#include "tests/simulation/workload.h"

namespace quire {

// Coordinators, workers and clients on one thread, with a network, a clock and faults that are all
// the seed's: the same seed always takes the same steps. Everything but gRPC and the device is the
// real code. After the faults have ended every request must end, with its own tokens where it ends
// well, and then nothing may be left of it anywhere.
class Simulation {
 public:
  struct Result {
    std::string failure;  // empty: what must hold did hold
    uint64_t trace_hash = 0;
    int64_t num_events = 0;
  };
  Simulation(uint64_t seed, bool prints);
  ~Simulation();
  // Once. Adds to `counts`.
  Result Run(SimCounts* counts);

 private:
  class Connector;
  struct Config {
    size_t num_coordinators = 1;
    size_t num_workers = 1;
    size_t max_waiting = 4096;  // messages of a session that its reader has not taken
    bool has_small_queues = false;
    uint32_t quarantine_after = 0;
    bool has_poison = false;  // one of the requests ends each worker that runs it
  };
  struct Fetch {
    std::function<void(absl::StatusOr<ModelFiles>)> done;  // null: it was called
    size_t coordinator = 0;
    size_t worker = 0;
  };
  struct OpenSession {
    std::shared_ptr<SimSession> session;
    size_t coordinator = 0;
    size_t worker = 0;
  };

  void MakeProcesses();
  void MakeClients();
  std::shared_ptr<MessageSink<SimSession::Request>> Open(
      size_t coordinator, size_t worker,
      std::shared_ptr<MessageHandler<SimSession::Event>> handler);
  std::function<void()> FetchFiles(size_t coordinator, size_t worker,
                                   std::function<void(absl::StatusOr<ModelFiles>)> done);
  void FinishFetch(const std::shared_ptr<Fetch>& fetch, int64_t at,
                   absl::StatusOr<ModelFiles> files);

  // --- Faults (faults.cc). Each ends by quiet_from_. ---
  void PlanFaults();
  void PlanFault(int64_t at);
  void KillWorker(size_t worker);
  void StartWorker(size_t worker);
  void CrashWorker(size_t worker, int64_t down);
  void DrainWorker(size_t worker, int64_t deadline);
  void KillCoordinator(size_t coordinator);
  void StartCoordinator(size_t coordinator);
  void DrainCoordinator(size_t coordinator, int64_t deadline);
  // Until when a process that is stopped now, or path that is blocked, is so.
  void StopProcess(SimProcess* process, int64_t until);
  void CutSession(size_t coordinator, size_t worker, bool half_open);
  // When an end hears of a lost connection: soon, or when its keepalive gives up.
  int64_t HearsAt(bool soon);
  void During(int64_t until) { quiet_from_ = std::max(quiet_from_, until); }

  // --- What must hold (simulation.cc) ---
  void Fail(const std::string& what);
  bool AllEnded() const;
  // Empty: nothing is left of any request.
  std::string WhatIsLeft();

  SimRandom random_;
  SimTrace trace_;
  EventQueue queue_;
  Config config_;
  SimCounts counts_;
  std::string failure_;
  int64_t quiet_from_ = 0;
  std::deque<SimPath> worker_paths_;  // [coordinator, worker]
  std::deque<SimPath> client_paths_;  // [coordinator]
  std::vector<std::unique_ptr<SimWorker>> workers_;
  std::vector<std::unique_ptr<SimCoordinator>> coordinators_;
  std::vector<OpenSession> sessions_;
  std::vector<std::shared_ptr<Fetch>> fetches_;
  SimClient::World world_;
  std::deque<SimRequest> requests_;
  std::vector<std::unique_ptr<SimClient>> clients_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_SIMULATION_H_
