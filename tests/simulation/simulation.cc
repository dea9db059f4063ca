#include "tests/simulation/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace quire {
namespace {

constexpr int64_t kMillisecond = 1'000;
constexpr int64_t kSecond = 1'000'000;
// When everything is up again: how long requests may take to end, and what they left to go. Far
// more than they take; a stream that is lost ends within move_timeout (10 s).
constexpr int64_t kLongestEnd = 60 * kSecond;
constexpr int64_t kLongestCleanUp = 20 * kSecond;
constexpr size_t kFewMessages = 24;
constexpr int64_t kMaxEvents = 2'000'000;

}  // namespace

class Simulation::Connector final : public WorkerConnector {
 public:
  Connector(Simulation* simulation, size_t coordinator, size_t worker)
      : simulation_(simulation), coordinator_(coordinator), worker_(worker) {}
  std::shared_ptr<Sink> OpenSession(std::shared_ptr<Handler> handler) override {
    return simulation_->Open(coordinator_, worker_, std::move(handler));
  }
  CancelFetch FetchFiles(const std::string&,
                         std::function<void(absl::StatusOr<ModelFiles>)> done) override {
    return simulation_->FetchFiles(coordinator_, worker_, std::move(done));
  }

 private:
  Simulation* const simulation_;
  const size_t coordinator_;
  const size_t worker_;
};

Simulation::Simulation(uint64_t seed, bool prints) : random_(seed), trace_(prints) {
  config_.num_coordinators = static_cast<size_t>(random_.Range(1, 3));
  config_.num_workers = static_cast<size_t>(random_.Range(1, 3));
  if (random_.Chance(20)) config_.max_waiting = kFewMessages;
  config_.has_small_queues = random_.Chance(20);
  if (random_.Chance(30)) config_.quarantine_after = static_cast<uint32_t>(random_.Range(1, 2));
  config_.has_poison = config_.quarantine_after > 0 && random_.Chance(30);
  MakeProcesses();
  MakeClients();
  PlanFaults();
}

void Simulation::MakeProcesses() {
  const auto make_path = [this] {
    SimPath path;
    // A session that may hold few messages has to be fast, lest it is always full.
    const bool is_slow = random_.Chance(20) && config_.max_waiting > kFewMessages;
    path.max_delay = is_slow ? random_.Range(5, 200) * kMillisecond : kMillisecond;
    return path;
  };
  std::vector<std::string> addresses;
  for (size_t w = 0; w < config_.num_workers; ++w) {
    SimWorker::Options options;
    options.name = absl::StrCat("w", w);
    options.num_blocks = static_cast<uint32_t>(random_.Range(12, 40));
    options.max_num_seqs = static_cast<uint32_t>(random_.Range(2, 6));
    options.max_num_batched_tokens = static_cast<uint32_t>(random_.Range(6, 32));
    if (config_.has_small_queues) options.max_queue = static_cast<uint32_t>(random_.Range(1, 4));
    options.steps_in_flight = static_cast<uint32_t>(random_.Range(1, 2));
    options.step_micros = random_.Range(1, 20) * kMillisecond;
    workers_.push_back(std::make_unique<SimWorker>(options, &queue_, &trace_, [this, w] {
      // Not in the midst of a step of the code that is to be gone.
      queue_.At(queue_.now(), [this, w] {
        ++counts_["poisoned workers"];
        if (workers_[w]->is_running()) CrashWorker(w, random_.Range(1, 1'000) * kMillisecond);
      });
    }));
    addresses.push_back(absl::StrCat(options.name, ":1"));
  }
  for (size_t c = 0; c < config_.num_coordinators; ++c) {
    SimCoordinator::Options options;
    options.number = static_cast<uint32_t>(c);
    options.quarantine_after = config_.quarantine_after;
    if (config_.has_small_queues) options.max_open = static_cast<size_t>(random_.Range(2, 8));
    const auto connect = [this, c](const std::string& address) {
      return std::make_unique<Connector>(this, c, static_cast<size_t>(address[1] - '0'));
    };
    coordinators_.push_back(
        std::make_unique<SimCoordinator>(options, &queue_, SimCatalog(), connect, addresses));
    client_paths_.push_back(make_path());
    for (size_t w = 0; w < config_.num_workers; ++w) worker_paths_.push_back(make_path());
  }
  for (size_t w = 0; w < workers_.size(); ++w) StartWorker(w);
  for (size_t c = 0; c < coordinators_.size(); ++c) StartCoordinator(c);
}

void Simulation::MakeClients() {
  world_ = {&queue_,
            &random_,
            &trace_,
            &counts_,
            {},
            {},
            [this](const std::string& what) {
              Fail(what); }};
  world_.quarantine_after = config_.quarantine_after;
  // A session that is full is lost, too.
  if (config_.max_waiting == kFewMessages) world_.num_worker_deaths = 1000;
  for (const auto& coordinator : coordinators_) world_.coordinators.push_back(coordinator.get());
  for (const SimPath& path : client_paths_) world_.paths.push_back(&path);
  const int64_t num_requests = random_.Range(3, 14);
  for (int64_t i = 0; i < num_requests; ++i) {
    const bool is_poison = config_.has_poison && i == 0;
    SimRequest& request =
        requests_.emplace_back(MakeSimRequest(absl::StrCat("r", i), is_poison, &random_));
    SimClient::Plan plan;
    plan.request = &request;
    plan.start_at = random_.Range(100, 1'500) * kMillisecond;
    if (random_.Chance(10)) plan.write_micros = random_.Range(1, 300) * kMillisecond;
    if (random_.Chance(10)) {
      request.request.set_timeout_ms(static_cast<uint32_t>(random_.Range(1, 1'000)));
      plan.ends.insert(absl::StatusCode::kDeadlineExceeded);
    }
    if (random_.Chance(10)) {
      request.request.set_queue_timeout_ms(static_cast<uint32_t>(random_.Range(1, 300)));
      plan.ends.insert(absl::StatusCode::kDeadlineExceeded);
    }
    if (config_.has_small_queues) plan.ends.insert(absl::StatusCode::kResourceExhausted);
    if (is_poison) plan.ends.insert(absl::StatusCode::kFailedPrecondition);
    const bool has_rival = random_.Chance(15);
    const bool rival_differs = has_rival && random_.Chance(20);
    if (has_rival) plan.ends.insert(absl::StatusCode::kAborted);
    if (rival_differs) plan.ends.insert(absl::StatusCode::kAlreadyExists);
    SimClient::Plan rival = plan;
    if (random_.Chance(20)) {
      plan.cancel = random_.Chance(50) ? SimClient::Plan::Cancel::kByCall
                                       : SimClient::Plan::Cancel::kByLeaving;
      plan.cancel_at = plan.start_at + random_.Range(0, 600) * kMillisecond;
      plan.ends.insert(absl::StatusCode::kCancelled);
      rival.ends.insert(absl::StatusCode::kCancelled);  // of a Cancel, which ends it for all
    }
    const auto add = [this](const SimClient::Plan& added) {
      clients_.push_back(
          std::make_unique<SimClient>(static_cast<uint32_t>(clients_.size()), &world_, added));
    };
    add(plan);
    if (!has_rival) continue;
    rival.start_at = plan.start_at + random_.Range(0, 600) * kMillisecond;
    if (rival_differs) {
      rival.request =
          &requests_.emplace_back(MakeSimRequest(absl::StrCat("r", i), is_poison, &random_));
    }
    add(rival);
  }
}

Simulation::~Simulation() {
  for (size_t c = 0; c < coordinators_.size(); ++c) {
    if (coordinators_[c]->is_running()) KillCoordinator(c);
  }
  for (size_t w = 0; w < workers_.size(); ++w) {
    if (workers_[w]->is_running()) KillWorker(w);
  }
}

// --- The network ---

std::shared_ptr<MessageSink<SimSession::Request>> Simulation::Open(
    size_t coordinator, size_t worker, std::shared_ptr<MessageHandler<SimSession::Event>> handler) {
  std::erase_if(sessions_, [](const OpenSession& open) { return open.session->is_over(); });
  SimWorker* const target = workers_[worker].get();
  auto session =
      std::make_shared<SimSession>(&coordinators_[coordinator]->process(), &target->process(),
                                   &worker_paths_[coordinator * config_.num_workers + worker],
                                   &random_, &trace_, config_.max_waiting);
  sessions_.push_back({session, coordinator, worker});
  if (!target->is_running()) return session->Open(std::move(handler), nullptr);
  return session->Open(std::move(handler), [target](auto sink) {
    return std::shared_ptr<MessageHandler<SimSession::Request>>(
        target->table().Connect(std::move(sink)));
  });
}

void Simulation::FinishFetch(const std::shared_ptr<Fetch>& fetch, int64_t at,
                             absl::StatusOr<ModelFiles> files) {
  SimCoordinator* const coordinator = coordinators_[fetch->coordinator].get();
  coordinator->process().At(at, [fetch, coordinator, files = std::move(files)] {
    if (const auto done = std::exchange(fetch->done, nullptr)) done(files);
    coordinator->RunPosted();
  });
}

std::function<void()> Simulation::FetchFiles(size_t coordinator, size_t worker,
                                             std::function<void(absl::StatusOr<ModelFiles>)> done) {
  std::erase_if(fetches_, [](const auto& fetch) { return fetch->done == nullptr; });
  auto fetch = std::make_shared<Fetch>();
  fetch->done = std::move(done);
  fetch->coordinator = coordinator;
  fetch->worker = worker;
  fetches_.push_back(fetch);
  const SimPath& path = worker_paths_[coordinator * config_.num_workers + worker];
  const int64_t there = path.Arrival(queue_.now(), &random_);
  if (workers_[worker]->is_running()) {
    workers_[worker]->process().At(there, [this, fetch, &path] {
      FinishFetch(fetch, path.Arrival(queue_.now(), &random_), SimModelFiles());
    });
  } else {
    FinishFetch(fetch, there, absl::UnavailableError("connection refused"));
  }
  return [this, fetch] { FinishFetch(fetch, queue_.now(), absl::CancelledError("cancelled")); };
}

// --- The run ---

void Simulation::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

bool Simulation::AllEnded() const {
  return std::all_of(clients_.begin(), clients_.end(),
                     [](const auto& client) { return client->result().has_value(); });
}

std::string Simulation::WhatIsLeft() {
  for (const auto& worker : workers_) {
    const std::string& name = worker->options().name;
    if (!worker->is_running()) return absl::StrCat(name, " is down");
    const EngineLoad load = worker->load();
    if (!worker->table().WaitUntilIdle(0)) return absl::StrCat(name, " has a request");
    if (load.running + load.waiting > 0) return absl::StrCat(name, " has a sequence");
    if (load.blocks_free + load.blocks_cached != load.blocks_total) {
      return absl::StrCat(name, " has ", load.blocks_free, " blocks free and ", load.blocks_cached,
                          " cached of ", load.blocks_total);
    }
  }
  for (size_t c = 0; c < coordinators_.size(); ++c) {
    SimCoordinator& coordinator = *coordinators_[c];
    const std::string name = absl::StrCat("c", c);
    if (!coordinator.is_running()) return absl::StrCat(name, " is down");
    if (coordinator.streams().num_live() > 0) return absl::StrCat(name, " has a stream");
    if (coordinator.num_made() != coordinator.num_ended()) {
      return absl::StrCat(name, " made ", coordinator.num_made(), " streams, and ",
                          coordinator.num_ended(), " ended");
    }
    for (const WorkerView& view : coordinator.registry().Views()) {
      if (view.state != v1::WorkerLoad::READY) {
        return absl::StrCat(name, " sees ", view.address, " as ",
                            v1::WorkerLoad::State_Name(view.state), ": ", view.why);
      }
      if (view.snapshot.unreported > 0) {
        return absl::StrCat(name, " has ", view.snapshot.unreported, " sequences at ",
                            view.address);
      }
    }
    if (coordinator.num_timers() > 0) {
      return absl::StrCat(name, " has ", coordinator.num_timers(), " timers");
    }
  }
  return "";
}

Simulation::Result Simulation::Run(SimCounts* counts) {
  Result result;
  const auto run_until = [&](int64_t at) {
    while (failure_.empty() && !queue_.empty() && queue_.next_at() <= at &&
           result.num_events < kMaxEvents) {
      queue_.RunNext();
      ++result.num_events;
    }
  };
  run_until(quiet_from_);
  for (int64_t at = quiet_from_; failure_.empty() && !AllEnded(); at += 100 * kMillisecond) {
    run_until(at);
    if (at < quiet_from_ + kLongestEnd && result.num_events < kMaxEvents) continue;
    for (const auto& client : clients_) {
      if (!client->result().has_value()) Fail(absl::StrCat(client->Describe(), " does not end"));
    }
  }
  run_until(quiet_from_);  // faults may go on longer than requests
  const int64_t ended_at = queue_.now();
  std::string left = failure_.empty() ? WhatIsLeft() : "";
  for (int64_t at = ended_at; failure_.empty() && !left.empty(); left = WhatIsLeft()) {
    run_until(at += 250 * kMillisecond);
    if (at > ended_at + kLongestCleanUp) Fail(absl::StrCat("when all had ended: ", left));
  }
  for (const auto& worker : workers_) {
    counts_["preemptions"] += worker->num_preemptions();
    counts_["prefix hits (tokens)"] += worker->num_prefix_hit_tokens();
  }
  for (const auto& coordinator : coordinators_) {
    counts_["quarantined requests"] += coordinator->num_quarantined();
  }
  counts_["requests"] += clients_.size();
  counts_["events"] += static_cast<uint64_t>(result.num_events);
  for (const auto& [name, count] : counts_) (*counts)[name] += count;
  result.failure = failure_;
  result.trace_hash = trace_.hash();
  return result;
}

}  // namespace quire
