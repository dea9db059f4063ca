// The faults of a simulation, and what follows from each.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/simulation.h"

namespace quire {
namespace {

constexpr int64_t kMillisecond = 1'000;
constexpr int64_t kSecond = 1'000'000;
constexpr int64_t kPoll = 20 * kMillisecond;

}  // namespace

void Simulation::PlanFaults() {
  const int64_t num_faults = random_.Chance(15) ? 0 : random_.Range(1, 8);
  During(1'500 * kMillisecond);
  for (int64_t i = 0; i < num_faults; ++i) {
    const int64_t at = random_.Range(50, 2'500) * kMillisecond;
    During(at);
    queue_.At(at, [this, at] { PlanFault(at); });
  }
}

int64_t Simulation::HearsAt(bool soon) {
  const int64_t at =
      queue_.now() + (soon ? random_.Range(0, 20) : random_.Range(500, 4'000)) * kMillisecond;
  During(at);
  return at;
}

void Simulation::PlanFault(int64_t at) {
  const auto w = static_cast<size_t>(random_.Range(0, static_cast<int64_t>(workers_.size()) - 1));
  const auto c =
      static_cast<size_t>(random_.Range(0, static_cast<int64_t>(coordinators_.size()) - 1));
  SimWorker* const worker = workers_[w].get();
  SimCoordinator* const coordinator = coordinators_[c].get();
  const int64_t down = random_.Range(1, 1'000) * kMillisecond;
  const int64_t longer = random_.Range(50, 4'000) * kMillisecond;
  const int64_t kind = random_.Range(0, 12);
  trace_.Note(at, "fault", {kind, static_cast<int64_t>(w), static_cast<int64_t>(c)});
  switch (kind) {
    case 0:
      if (!worker->is_running()) return;
      ++counts_["worker crashes"];
      return CrashWorker(w, down);
    case 1:
      if (!worker->is_running()) return;
      ++counts_["worker pauses"];
      return StopProcess(&worker->process(), at + longer);
    case 2:
      ++counts_["slow engines"];
      worker->set_step_micros(random_.Range(50, 300) * kMillisecond);
      During(at + longer);
      queue_.At(at + longer, [worker] { worker->set_step_micros(worker->options().step_micros); });
      return;
    case 3:
      if (!coordinator->is_running()) return;
      ++counts_["coordinator crashes"];
      KillCoordinator(c);
      During(at + down);
      queue_.At(at + down, [this, c] { StartCoordinator(c); });
      return;
    case 4:
      if (!coordinator->is_running()) return;
      ++counts_["coordinator pauses"];
      return StopProcess(&coordinator->process(), at + longer);
    case 5:
      if (!worker->is_running()) return;
      ++counts_["worker drains"];
      During(at + longer + kSecond);
      worker->process().At(at, [this, w, deadline = at + longer] { DrainWorker(w, deadline); });
      return;
    case 6:
      if (!coordinator->is_running()) return;
      ++counts_["coordinator drains"];
      During(at + longer + kSecond);
      coordinator->process().At(at, [this, c, deadline = at + longer] {
        coordinators_[c]->streams().StartDraining();
        DrainCoordinator(c, deadline);
      });
      return;
    case 7:
    case 8:
      ++counts_["cut sessions"];
      return CutSession(c, w, /*half_open=*/false);
    case 9:
      ++counts_["half-open sessions"];
      return CutSession(c, w, /*half_open=*/true);
    case 10: {
      ++counts_["black holes"];
      SimPath& path = worker_paths_[c * config_.num_workers + w];
      path.blocked_until = std::max(path.blocked_until, at + longer);
      During(path.blocked_until);
      return;
    }
    case 11:
      for (const auto& client : clients_) {
        const auto& connection = client->connection();
        if (connection == nullptr || connection->is_over || !random_.Chance(30)) continue;
        ++counts_["cut client connections"];
        client->Cut(HearsAt(random_.Chance(70)), HearsAt(random_.Chance(70)));
      }
      return;
    default:
      // An engine that hangs makes its worker SUSPECT only after 30 s: seldom, since that is long.
      if (!random_.Chance(5)) return;
      ++counts_["hung engines"];
      ++world_.num_worker_deaths;
      worker->set_step_micros(40 * kSecond);
      During(at + 80 * kSecond);
      queue_.At(at + kSecond, [worker] { worker->set_step_micros(worker->options().step_micros); });
  }
}

// --- Workers ---

void Simulation::KillWorker(size_t worker) {
  for (const OpenSession& open : sessions_) {
    if (open.worker == worker) open.session->LoseWorker(HearsAt(random_.Chance(70)));
  }
  for (const auto& fetch : fetches_) {
    if (fetch->worker != worker || fetch->done == nullptr) continue;
    FinishFetch(fetch, HearsAt(true), absl::UnavailableError("the connection was lost"));
  }
  workers_[worker]->Kill();
  ++world_.num_worker_deaths;
}

void Simulation::CrashWorker(size_t worker, int64_t down) {
  KillWorker(worker);
  const int64_t up_at = queue_.now() + down;
  During(up_at);
  queue_.At(up_at, [this, worker] { StartWorker(worker); });
}

void Simulation::StartWorker(size_t worker) {
  SimWorker* const started = workers_[worker].get();
  if (started->is_running()) return;
  started->Start();
  for (size_t c = 0; c < coordinators_.size(); ++c) {
    // As its Join does, where it was told of the coordinator.
    if (!random_.Chance(70) || !coordinators_[c]->is_running()) continue;
    SimCoordinator* const coordinator = coordinators_[c].get();
    const int64_t at =
        worker_paths_[c * config_.num_workers + worker].Arrival(queue_.now(), &random_);
    coordinator->process().At(at, [coordinator, name = started->options().name,
                                   incarnation = started->table().incarnation()] {
      coordinator->registry().Join(absl::StrCat(name, ":1"), incarnation, name).IgnoreError();
    });
  }
}

void Simulation::DrainWorker(size_t worker, int64_t deadline) {
  SimWorker& drained = *workers_[worker];
  drained.Drain();
  const bool is_over = drained.is_drained() || queue_.now() >= deadline;
  if (!is_over) {
    return drained.process().At(queue_.now() + kPoll,
                                [this, worker, deadline] { DrainWorker(worker, deadline); });
  }
  if (!drained.is_drained()) ++counts_["drains out of time"];
  drained.EndAll();
  // Its last words go out before it does.
  drained.process().At(queue_.now() + kPoll, [this, worker] {
    queue_.At(queue_.now(), [this, worker] {
      if (workers_[worker]->is_running()) KillWorker(worker);
      const int64_t up_at = queue_.now() + random_.Range(1, 500) * kMillisecond;
      During(up_at);
      queue_.At(up_at, [this, worker] { StartWorker(worker); });
    });
  });
}

// --- Coordinators ---

void Simulation::KillCoordinator(size_t coordinator) {
  for (const OpenSession& open : sessions_) {
    if (open.coordinator == coordinator) open.session->LoseCoordinator(HearsAt(random_.Chance(70)));
  }
  for (const auto& fetch : fetches_) {
    if (fetch->coordinator == coordinator) fetch->done = nullptr;
  }
  for (const auto& client : clients_) {
    const auto& connection = client->connection();
    if (connection == nullptr || connection->target != coordinator) continue;
    client->Cut(HearsAt(random_.Chance(70)), queue_.now());
  }
  coordinators_[coordinator]->Kill();
}

void Simulation::StartCoordinator(size_t coordinator) {
  if (!coordinators_[coordinator]->is_running()) coordinators_[coordinator]->Start();
}

void Simulation::DrainCoordinator(size_t coordinator, int64_t deadline) {
  SimCoordinator& drained = *coordinators_[coordinator];
  const bool is_idle = drained.streams().num_live() == 0;
  if (!is_idle && queue_.now() < deadline) {
    return drained.process().At(queue_.now() + kPoll, [this, coordinator, deadline] {
      DrainCoordinator(coordinator, deadline);
    });
  }
  if (!is_idle) {
    ++counts_["drains out of time"];
    drained.streams().EndAll(absl::UnavailableError("the coordinator shut down"));
  }
  drained.process().At(queue_.now() + kPoll, [this, coordinator] {
    queue_.At(queue_.now(), [this, coordinator] {
      if (coordinators_[coordinator]->is_running()) KillCoordinator(coordinator);
      const int64_t up_at = queue_.now() + random_.Range(1, 500) * kMillisecond;
      During(up_at);
      queue_.At(up_at, [this, coordinator] { StartCoordinator(coordinator); });
    });
  });
}

// --- Both ---

void Simulation::StopProcess(SimProcess* process, int64_t until) {
  process->Stop();
  During(until);
  queue_.At(until, [process] {
    if (process->is_stopped()) process->Continue();
  });
}

void Simulation::CutSession(size_t coordinator, size_t worker, bool half_open) {
  for (const OpenSession& open : sessions_) {
    if (open.coordinator != coordinator || open.worker != worker) continue;
    ++world_.num_worker_deaths;
    const bool coordinator_knows = !half_open || random_.Chance(50);
    open.session->Cut(HearsAt(coordinator_knows), HearsAt(!half_open || !coordinator_knows));
  }
}

}  // namespace quire
