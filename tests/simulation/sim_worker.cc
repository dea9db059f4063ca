#include "tests/simulation/sim_worker.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/check.h"
#include "worker/device/fake/fake_executor.h"
#include "worker/engine/request_engine.h"

namespace quire {

class SimWorker::Inbox final : public EngineInbox {
 public:
  Inbox(SimWorker* worker, EngineLoop* loop) : worker_(worker), loop_(loop) {}
  absl::Status PostSubmit(EngineRequest request) override {
    worker_->Wake();
    return loop_->PostSubmit(std::move(request));
  }
  void PostCancel(RequestKey key, std::optional<uint32_t> choice,
                  std::optional<uint32_t> stop_index) override {
    worker_->Wake();
    loop_->PostCancel(key, choice, stop_index);
  }
  void PostRequestLoad() override {
    worker_->Wake();
    loop_->PostRequestLoad();
  }
  uint64_t steps() const override { return loop_->steps(); }
  Micros SinceProgress() const override { return loop_->SinceProgress(); }

 private:
  SimWorker* const worker_;
  EngineLoop* const loop_;
};

// The fake device, and what a request that brings a process down does to it.
class SimWorker::Device final : public ModelExecutor {
 public:
  Device(const FakeExecutor::Options& options, const std::function<void()>& on_poison)
      : fake_(options), on_poison_(on_poison) {}
  const ExecutorLimits& limits() const override { return fake_.limits(); }
  absl::Status Launch(const StepPlan& plan) override {
    for (const SlotFill& fill : plan.filled) {
      if (fill.tokens.front() == kPoisonToken) on_poison_();
    }
    return fake_.Launch(plan);
  }
  absl::Status Collect(StepResult* result) override { return fake_.Collect(result); }

 private:
  FakeExecutor fake_;
  const std::function<void()>& on_poison_;
};

SimWorker::SimWorker(const Options& options, EventQueue* queue, SimTrace* trace,
                     std::function<void()> on_poison)
    : options_(options),
      trace_(trace),
      on_poison_(std::move(on_poison)),
      process_(queue),
      step_micros_(options.step_micros) {
  info_.set_name(options.name);
  info_.set_model("m");
  info_.set_engine(v1::PAGED);
  info_.set_numerics_id("fake");
  info_.set_context_length(kContext);
  info_.set_vocabulary_size(kVocabulary);
  info_.mutable_kv()->set_block_size(kBlockSize);
  info_.mutable_kv()->set_num_blocks(options.num_blocks);
  info_.mutable_limits()->set_max_num_seqs(options.max_num_seqs);
  info_.mutable_limits()->set_max_queue(options.max_queue);
}

SimWorker::~SimWorker() = default;

void SimWorker::Start() {
  QUIRE_CHECK(!running_.has_value());
  process_.Begin();
  Running& running = running_.emplace();
  ExecutorLimits limits;
  limits.num_slots = options_.max_num_seqs;
  limits.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits.context_length = kContext;
  limits.vocabulary_size = kVocabulary;
  limits.block_size = kBlockSize;
  limits.num_blocks = options_.num_blocks;
  limits.kv_bytes_per_token = 2;
  limits.max_steps_in_flight = options_.steps_in_flight;
  BatchScheduler::Options scheduler;
  scheduler.kv.num_blocks = limits.num_blocks;
  scheduler.kv.block_size = limits.block_size;
  scheduler.max_num_seqs = limits.num_slots;
  scheduler.max_num_batched_tokens = limits.max_num_batched_tokens;
  scheduler.max_queue = options_.max_queue;
  scheduler.kv_bytes_per_token = limits.kv_bytes_per_token;

  const auto clock = [this] { return process_.now(); };
  SessionTable::Options table;
  table.info = info_;
  table.incarnation = absl::StrCat(options_.name, " life ", ++num_lives_);
  table.orphan_grace = kOrphanGrace;
  table.clock = clock;
  table.on_fatal = [](const absl::Status&) { QUIRE_CHECK(false); };
  running.table = std::make_unique<SessionTable>(std::move(table));
  auto engine = std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(scheduler));
  running.engine = engine.get();
  FakeExecutor::Options device;
  device.limits = limits;
  device.samples = true;
  running.loop = std::make_unique<EngineLoop>(
      std::move(engine), std::make_unique<Device>(device, on_poison_), running.table.get(),
      size_t{options_.max_queue} + options_.max_num_seqs, clock);
  running.inbox = std::make_unique<Inbox>(this, running.loop.get());
  running.table->SetInbox(running.inbox.get());
  process_.At(process_.now(), [this] { Tick(); });
}

void SimWorker::Kill() {
  preemptions_before_ = num_preemptions();
  prefix_hits_before_ = num_prefix_hit_tokens();
  process_.Kill();
  running_.reset();
}

void SimWorker::EndAll() {
  running_->table->EndAll();
  running_->table->CloseConnections();
}

void SimWorker::Tick() {
  running_->table->Tick();
  process_.At(process_.now() + kTickMicros, [this] { Tick(); });
}

void SimWorker::Wake() {
  if (std::exchange(running_->has_turn, true)) return;
  process_.At(process_.now(), [this] { Turn(); });
}

void SimWorker::Turn() {
  EngineLoop& loop = *running_->loop;
  QUIRE_CHECK(loop.Begin());
  trace_->Note(process_.now(), "turn", {options_.name.back(), loop.num_in_flight()});
  if (loop.num_in_flight() == 0) {
    running_->has_turn = false;
    QUIRE_CHECK(loop.Complete());
    return;
  }
  process_.At(process_.now() + step_micros_, [this] {
    QUIRE_CHECK(running_->loop->Complete());
    const EngineLoad load = running_->engine->load();
    QUIRE_CHECK(load.blocks_free + load.blocks_cached <= load.blocks_total);
    QUIRE_CHECK(load.running <= options_.max_num_seqs);
    Turn();
  });
}

uint64_t SimWorker::num_preemptions() const {
  return preemptions_before_ + (running_.has_value() ? running_->engine->load().preemptions : 0);
}

uint64_t SimWorker::num_prefix_hit_tokens() const {
  return prefix_hits_before_ +
         (running_.has_value() ? running_->engine->load().prefix_hit_tokens : 0);
}

}  // namespace quire
