// How a link judges its worker: by pings, silence and the engine's progress.
#include "coordinator/worker_client/worker_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace quire {

using worker::v1::SessionRequest;

void WorkerLink::Tick() {
  std::shared_ptr<WorkerConnector::Sink> sink;
  SessionRequest ping;
  absl::Status lost;
  bool hangs = false;
  bool is_open = false;
  {
    MutexLock lock(mutex_);
    sink = sink_;
    is_open = opened_;
    const int64_t now = context_.timers->Now();
    const bool stood_still = now - ticked_at_ > kMaxTickMicros;
    ticked_at_ = now;
    // Words may lie unread then.
    if (stood_still) heard_at_ = answered_at_ = now;
    if (!opened_) {
      if (now - heard_at_ < kOpenMicros) return;
      lost = absl::UnavailableError("the worker has not answered Open");
    } else if (const std::string why = SuspectWhy(now); !why.empty()) {
      lost = absl::UnavailableError(absl::StrCat("the worker ", why));
      hangs = !IsUnheard(now, context_.silence_micros);
    }
    ping.mutable_ping()->set_nonce(++pings_);
  }
  if (!is_open) {
    if (sink != nullptr) sink->Close(lost);  // and connects again
    return;
  }
  if (!lost.ok()) TakeRequestsAway(hangs ? WorkerLoss::kHangs : WorkerLoss::kUnheard, lost);
  if (sink != nullptr) sink->Write(std::move(ping));
}

bool WorkerLink::IsUnheard(int64_t now, int64_t silence_micros) const {
  return now - heard_at_ > silence_micros || now - answered_at_ > DeafMicros(silence_micros);
}

std::string WorkerLink::SuspectWhy(int64_t now) const {
  const auto ms = [](int64_t micros) { return absl::StrCat(micros / 1000, " ms"); };
  if (now - heard_at_ > context_.silence_micros) {
    return absl::StrCat("has been silent for ", ms(now - heard_at_));
  }
  if (now - answered_at_ > DeafMicros(context_.silence_micros)) {
    return absl::StrCat("has answered no ping for ", ms(now - answered_at_));
  }
  if (since_progress_ > kHangMicros) {
    return absl::StrCat("has an engine that has settled no step for ", ms(since_progress_));
  }
  return "";
}

void WorkerLink::TakeRequestsAway(WorkerLoss loss, const absl::Status& status) {
  Taken requests;
  std::shared_ptr<WorkerConnector::Sink> sink;
  std::string name;
  {
    MutexLock lock(mutex_);
    requests = TakeRequests();
    sink = sink_;
    name = info_.name();
  }
  if (requests.empty()) return;
  LogWarning(absl::StrCat("worker ", name, " at ", address_, " is given up with ", requests.size(),
                          " requests: ", status.message()));
  for (const auto& [key, request] : requests) {
    if (sink != nullptr) WriteCancel(key, sink.get());
  }
  for (auto& [key, request] : requests) {
    request.receiver->OnWorkerLost(request.attempt, loss, status);
  }
}

WorkerView WorkerLink::View() const {
  MutexLock lock(mutex_);
  WorkerView view;
  view.number = number_;
  view.address = address_;
  view.incarnation = incarnation_;
  view.info = info_;
  view.load = load_;
  view.model = model_;
  view.why = why_;
  // What came while this process stood still lies unread until the next Tick.
  const std::string suspect =
      SuspectWhy(std::min(context_.timers->Now(), ticked_at_ + kMaxTickMicros));
  view.is_open = opened_;
  view.answers = opened_ && suspect.empty();
  if (!opened_) {
    view.state = was_ready_ ? v1::WorkerLoad::DEAD : v1::WorkerLoad::STARTING;
  } else if (model_ == nullptr) {
    view.state = v1::WorkerLoad::STARTING;
  } else if (load_.draining()) {
    view.state = v1::WorkerLoad::DRAINING;
    view.why = "draining";
  } else if (!suspect.empty()) {
    view.state = v1::WorkerLoad::SUSPECT;
    view.why = suspect;
  } else {
    view.state = v1::WorkerLoad::READY;
    view.why.clear();
  }
  WorkerSnapshot& snapshot = view.snapshot;
  snapshot.worker = number_;
  snapshot.running = load_.running();
  snapshot.waiting = load_.waiting();
  snapshot.blocks_free = load_.blocks_free();
  snapshot.blocks_cached = load_.blocks_cached();
  snapshot.blocks_total = info_.kv().num_blocks();
  // The others are other coordinators'.
  const uint32_t reported =
      load_.has_own_sequences() ? load_.own_sequences() : load_.running() + load_.waiting();
  snapshot.unreported = num_sequences_ > reported ? num_sequences_ - reported : 0;
  snapshot.max_num_seqs = info_.limits().max_num_seqs();
  snapshot.max_queue = info_.limits().max_queue();
  snapshot.block_size = info_.kv().block_size();
  return view;
}

}  // namespace quire
