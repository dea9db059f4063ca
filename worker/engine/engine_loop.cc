#include "worker/engine/engine_loop.h"

#include <utility>

#include "scheduler/check.h"

namespace quire {
EngineLoop::EngineLoop(std::unique_ptr<Engine> engine, std::unique_ptr<ModelExecutor> executor,
                       EngineListener* listener, size_t max_mailbox, std::function<Micros()> clock)
    : engine_(std::move(engine)),
      executor_(std::move(executor)),
      listener_(listener),
      max_mailbox_(max_mailbox),
      clock_(std::move(clock)) {}

EngineLoop::~EngineLoop() { Stop(); }

void EngineLoop::Start() {
  QUIRE_CHECK(!thread_.joinable());
  last_progress_ = clock_();
  thread_ = std::thread([this] { Run(); });
}

void EngineLoop::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    has_mail_.store(true, std::memory_order_release);
  }
  wake_.NotifyOne();
  if (thread_.joinable()) thread_.join();
}

absl::Status EngineLoop::PostSubmit(EngineRequest request) {
  {
    MutexLock lock(mutex_);
    if (num_submits_ >= max_mailbox_) {
      return absl::ResourceExhaustedError("the engine's mailbox is full");
    }
    ++num_submits_;
    mailbox_.push_back(SubmitMessage{std::move(request)});
    has_mail_.store(true, std::memory_order_release);
  }
  wake_.NotifyOne();
  return absl::OkStatus();
}

void EngineLoop::PostCancel(RequestKey key, std::optional<uint32_t> choice,
                            std::optional<uint32_t> stop_index) {
  {
    MutexLock lock(mutex_);
    mailbox_.push_back(CancelMessage{key, choice, stop_index});
    has_mail_.store(true, std::memory_order_release);
  }
  wake_.NotifyOne();
}

void EngineLoop::PostRequestLoad() {
  {
    MutexLock lock(mutex_);
    if (load_requested_) return;
    load_requested_ = true;
    has_mail_.store(true, std::memory_order_release);
  }
  wake_.NotifyOne();
}

Micros EngineLoop::SinceProgress() const {
  if (idle_.load(std::memory_order_acquire)) return 0;
  return clock_() - last_progress_.load(std::memory_order_relaxed);
}

void EngineLoop::Run() {
  bool may_wait = false;
  while (Receive(may_wait)) {
    if (!Launch()) return;
    may_wait = in_flight_ == 0;
    if (!Complete()) return;
  }
}

bool EngineLoop::Begin() {
  if (idle_.load(std::memory_order_relaxed) && has_mail_.load(std::memory_order_acquire)) {
    SetIdle(false);
  }
  if (!Receive(/*may_wait=*/false) || !Launch()) return false;
  if (in_flight_ == 0) SetIdle(true);
  return true;
}

void EngineLoop::SetIdle(bool idle) {
  if (!idle) last_progress_.store(clock_(), std::memory_order_relaxed);
  idle_.store(idle, std::memory_order_release);  // after last_progress_
}

bool EngineLoop::Launch() {
  const uint32_t max_in_flight = executor_->limits().max_steps_in_flight;
  while (in_flight_ < max_in_flight && engine_->Plan(clock_(), &plan_)) {
    if (absl::Status status = executor_->Launch(plan_); !status.ok()) {
      listener_->OnFatal(status);
      return false;
    }
    ++in_flight_;
  }
  return true;
}

bool EngineLoop::Complete() {
  if (in_flight_ > 0) {
    if (absl::Status status = executor_->Collect(&result_); !status.ok()) {
      listener_->OnFatal(status);
      return false;
    }
    --in_flight_;
    const Micros now = clock_();
    engine_->Settle(result_, now);
    steps_.fetch_add(1, std::memory_order_relaxed);
    last_progress_.store(now, std::memory_order_relaxed);
  }
  Emit();
  return true;
}

bool EngineLoop::Receive(bool may_wait) {
  if (!may_wait && !has_mail_.load(std::memory_order_acquire)) return true;
  bool load_requested = false;
  {
    MutexLock lock(mutex_);
    if (may_wait && !has_mail_.load(std::memory_order_relaxed)) {
      SetIdle(true);
      while (!has_mail_.load(std::memory_order_relaxed)) wake_.Wait(mutex_);
      SetIdle(false);
    }
    has_mail_.store(false, std::memory_order_relaxed);
    if (stopping_) return false;
    received_.swap(mailbox_);
    num_submits_ = 0;
    load_requested = std::exchange(load_requested_, false);
  }
  for (Message& message : received_) {
    if (auto* submit = std::get_if<SubmitMessage>(&message)) {
      const RequestKey key = submit->request.key;
      const uint32_t attempt = submit->request.attempt;
      absl::Status status = engine_->Submit(std::move(submit->request), clock_());
      if (!status.ok()) listener_->OnRejected(key, attempt, status);
    } else {
      const auto& cancel = std::get<CancelMessage>(message);
      engine_->Cancel(cancel.key, cancel.choice, cancel.stop_index, clock_());
    }
  }
  received_.clear();
  if (load_requested) listener_->OnLoad(engine_->load());
  return true;
}

void EngineLoop::Emit() {
  engine_->TakeOutput(&output_);
  // One may have taken another's place: then the counts are as before, and the blocks are not.
  const bool ended = !output_.finishes.empty();
  if (!output_.empty()) listener_->OnOutput(output_);
  const EngineLoad load = engine_->load();
  if (ended || load.running != last_running_ || load.waiting != last_waiting_) {
    last_running_ = load.running;
    last_waiting_ = load.waiting;
    listener_->OnLoad(load);
  }
}

}  // namespace quire
