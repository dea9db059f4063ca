#include "tests/fuzz/stepped_worker.h"

#include <utility>

#include "scheduler/batch/batch_scheduler.h"
#include "tests/fuzz/fuzz.h"

namespace quire {
namespace {

constexpr size_t kMaxMail = 16;

ExecutorLimits Limits(uint32_t steps_in_flight) {
  ExecutorLimits limits;
  limits.num_slots = SteppedWorker::kMaxNumSeqs;
  limits.max_num_batched_tokens = 16;
  limits.context_length = SteppedWorker::kContext;
  limits.vocabulary_size = SteppedWorker::kVocabulary;
  limits.block_size = SteppedWorker::kBlockSize;
  limits.num_blocks = SteppedWorker::kNumBlocks;
  limits.kv_bytes_per_token = 2;
  limits.max_steps_in_flight = steps_in_flight;
  return limits;
}

std::unique_ptr<RequestEngine> MakeEngine(const ExecutorLimits& limits) {
  BatchScheduler::Options options;
  options.kv.num_blocks = limits.num_blocks;
  options.kv.block_size = limits.block_size;
  options.max_num_seqs = limits.num_slots;
  options.max_num_batched_tokens = limits.max_num_batched_tokens;
  options.max_queue = SteppedWorker::kMaxQueue;
  options.kv_bytes_per_token = limits.kv_bytes_per_token;
  return std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(options));
}

SessionTable::Options TableOptions(const Micros* now, uint32_t* num_ended) {
  SessionTable::Options options;
  options.info = SteppedWorker::Info();
  options.incarnation = "first life";
  options.orphan_grace = SteppedWorker::kOrphanGrace;
  options.clock = [now] { return *now; };
  options.on_request_end = [num_ended](const SessionTable::RequestRecord&) { ++*num_ended; };
  options.on_fatal = [](const absl::Status& status) { QUIRE_FUZZ_CHECK(false, status.ToString()); };
  return options;
}

}  // namespace

worker::v1::WorkerInfo SteppedWorker::Info() {
  worker::v1::WorkerInfo info;
  info.set_name("w");
  info.set_model("m");
  info.set_engine(v1::PAGED);
  info.set_numerics_id("fake");
  info.set_context_length(kContext);
  info.set_vocabulary_size(kVocabulary);
  info.mutable_kv()->set_block_size(kBlockSize);
  info.mutable_kv()->set_num_blocks(kNumBlocks);
  info.mutable_limits()->set_max_num_seqs(kMaxNumSeqs);
  info.mutable_limits()->set_max_queue(kMaxQueue);
  return info;
}

SteppedWorker::SteppedWorker(uint32_t steps_in_flight)
    : executor_({.limits = Limits(steps_in_flight), .reads_whole_context = false}),
      engine_(MakeEngine(Limits(steps_in_flight))),
      table_(TableOptions(&now, &num_ended_)) {
  table_.SetInbox(this);
}

absl::Status SteppedWorker::PostSubmit(EngineRequest request) {
  if (num_submits_ >= kMaxMail) return absl::ResourceExhaustedError("the mailbox is full");
  ++num_submits_;
  mail_.emplace_back(std::move(request));
  return absl::OkStatus();
}

void SteppedWorker::PostCancel(RequestKey key, std::optional<uint32_t> choice,
                               std::optional<uint32_t> stop_index) {
  mail_.emplace_back(Cancel{key, choice, stop_index});
}

void SteppedWorker::Receive() {
  num_submits_ = 0;
  for (auto& message : std::exchange(mail_, {})) {
    if (auto* request = std::get_if<EngineRequest>(&message)) {
      const RequestKey key = request->key;
      const uint32_t attempt = request->attempt;
      const absl::Status status = engine_->Submit(std::move(*request), now);
      if (!status.ok()) table_.OnRejected(key, attempt, status);
    } else {
      const Cancel& cancel = std::get<Cancel>(message);
      engine_->Cancel(cancel.key, cancel.choice, cancel.stop_index, now);
    }
  }
  if (std::exchange(load_requested_, false)) table_.OnLoad(engine_->load());
}

void SteppedWorker::Emit() {
  EngineOutput output;
  engine_->TakeOutput(&output);
  const bool ended = !output.finishes.empty();
  if (!output.empty()) table_.OnOutput(output);
  const EngineLoad load = engine_->load();
  QUIRE_FUZZ_CHECK(load.blocks_free + load.blocks_cached <= load.blocks_total, "blocks appeared");
  if (ended) table_.OnLoad(load);
}

bool SteppedWorker::Step() {
  bool worked = !mail_.empty() || load_requested_;
  Receive();
  StepPlan plan;
  while (in_flight_ < executor_.limits().max_steps_in_flight && engine_->Plan(now, &plan)) {
    QUIRE_FUZZ_CHECK(executor_.Launch(plan).ok(), "launch");
    ++in_flight_;
  }
  if (in_flight_ > 0) {
    StepResult result;
    QUIRE_FUZZ_CHECK(executor_.Collect(&result).ok(), "collect");
    --in_flight_;
    engine_->Settle(result, now);
    ++steps_;
    worked = true;
  }
  Emit();
  return worked;
}

void SteppedWorker::RunUntilIdle() {
  // Far more than all sequences at full length take.
  constexpr int kMost = 100'000;
  for (int i = 0; i < kMost; ++i) {
    if (!Step()) return;
  }
  QUIRE_FUZZ_CHECK(false, "the engine does not come to rest");
}

}  // namespace quire
