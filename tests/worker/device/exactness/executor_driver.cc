#include "tests/worker/device/exactness/executor_driver.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "scheduler/check.h"
#include "tests/worker/device/exactness/random.h"

namespace quire {
namespace {

// One sequence on its way.
struct Running {
  TestSequence* sequence = nullptr;
  SlotId slot = 0;
  uint32_t next_position = 0;
  std::vector<BlockId> blocks;
};

class Driver {
 public:
  Driver(ExecutorUnderTest& executor, const WildSchedule& schedule)
      : executor_(executor),
        limits_(executor.limits()),
        schedule_(schedule),
        random_(schedule.seed) {
    free_slots_.resize(limits_.num_slots);
    free_blocks_.resize(limits_.num_blocks);
    std::iota(free_slots_.begin(), free_slots_.end(), 0);
    std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
    for (const BlockId block : free_blocks_) executor.FillWithNan(block);
    executor.set_logits_observer([this](SlotId slot, uint32_t position, const float* logits) {
      for (Running& running : running_) {
        if (running.slot != slot) continue;
        running.sequence->logits[position].assign(logits, logits + limits_.vocabulary_size);
      }
    });
  }
  ~Driver() { executor_.set_logits_observer(nullptr); }

  void Run(std::vector<TestSequence>& sequences) {
    for (TestSequence& sequence : sequences) waiting_.push_back(&sequence);
    std::shuffle(waiting_.begin(), waiting_.end(), random_);
    while (!waiting_.empty() || !running_.empty()) Step();
    StepPlan plan;
    plan.freed = freed_;
    Execute(plan);
  }

 private:
  uint32_t Below(uint32_t end) { return quire::Below(random_, end); }

  void Execute(const StepPlan& plan) {
    executor_.Launch(plan);
    executor_.Collect(&result_);
  }

  template <typename U>
  U TakeAny(std::vector<U>& from) {
    std::swap(from[Below(static_cast<uint32_t>(from.size()))], from.back());
    const U value = from.back();
    from.pop_back();
    return value;
  }

  void Stop(Running& running) {
    freed_.push_back(running.slot);
    free_slots_.push_back(running.slot);
    for (const BlockId block : running.blocks) {
      executor_.FillWithNan(block);
      free_blocks_.push_back(block);
    }
  }

  void Start(StepPlan& plan) {
    Running running;
    running.sequence = TakeAny(waiting_);
    running.slot = TakeAny(free_slots_);
    SlotFill fill;
    fill.slot = running.slot;
    fill.tokens = running.sequence->prompt;
    fill.num_prompt_tokens = static_cast<uint32_t>(fill.tokens.size());
    fill.tokens.insert(fill.tokens.end(), running.sequence->output.begin(),
                       running.sequence->output.end());
    fill.params = running.sequence->params;
    plan.filled.push_back(fill);
    running_.push_back(running);
  }

  void Step() {
    StepPlan plan;
    plan.step = ++step_;
    plan.freed = std::move(freed_);
    freed_.clear();
    std::uniform_real_distribution<double> chance(0, 1);
    for (size_t i = 0; i < running_.size();) {
      if (chance(random_) >= schedule_.preempt_chance) {
        ++i;
        continue;
      }
      Stop(running_[i]);
      plan.freed.push_back(freed_.back());
      freed_.clear();
      waiting_.push_back(running_[i].sequence);
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    while (!waiting_.empty() && running_.size() < schedule_.max_running) Start(plan);
    std::shuffle(running_.begin(), running_.end(), random_);

    uint32_t budget = limits_.max_num_batched_tokens;
    std::vector<Running*> planned;
    for (Running& running : running_) {
      if (budget == 0) break;
      PlanRun(running, &budget, plan);
      planned.push_back(&running);
    }
    Execute(plan);
    Settle(plan, planned);
  }

  void PlanRun(Running& running, uint32_t* budget, StepPlan& plan) {
    const uint32_t known =
        static_cast<uint32_t>(running.sequence->prompt.size() + running.sequence->output.size());
    const uint32_t left = known - running.next_position;
    const uint32_t chunk = 1 + Below(schedule_.max_chunk);
    SlotRun run;
    run.slot = running.slot;
    run.num_tokens = std::min({left, chunk, *budget});
    run.samples = run.num_tokens == left;
    *budget -= run.num_tokens;
    const uint32_t end = running.next_position + run.num_tokens;
    while (running.blocks.size() * limits_.block_size < end) {
      QUIRE_CHECK(!free_blocks_.empty());
      running.blocks.push_back(TakeAny(free_blocks_));
      plan.appended.push_back({running.slot, running.blocks.back()});
    }
    plan.runs.push_back(run);
    plan.num_tokens += run.num_tokens;
  }

  void Settle(const StepPlan& plan, const std::vector<Running*>& planned) {
    QUIRE_CHECK(result_.outputs.size() == plan.runs.size());
    for (const StepResult::Logprobs& entry : result_.logprobs) {
      std::vector<TokenLogprobs>& all = planned[entry.output]->sequence->logprobs;
      all.insert(all.end(), entry.tokens.begin(), entry.tokens.end());
    }
    for (size_t i = 0; i < planned.size(); ++i) {
      const SlotOutput& output = result_.outputs[i];
      TestSequence& sequence = *planned[i]->sequence;
      planned[i]->next_position += plan.runs[i].num_tokens;
      if (output.fault != NumericFault::kNone) sequence.faults.push_back(output.fault);
      for (uint32_t t = 0; t < output.num_tokens; ++t) {
        sequence.output.push_back(result_.tokens[output.first_token + t]);
      }
    }
    std::erase_if(running_, [&](Running& running) {
      const TestSequence& sequence = *running.sequence;
      if (sequence.output.size() < sequence.num_new_tokens && sequence.faults.empty()) {
        return false;
      }
      Stop(running);
      return true;
    });
  }

  ExecutorUnderTest& executor_;
  const ExecutorLimits& limits_;
  const WildSchedule schedule_;
  TestRandom random_;
  std::vector<SlotId> free_slots_;
  std::vector<BlockId> free_blocks_;
  std::vector<SlotId> freed_;
  std::vector<TestSequence*> waiting_;
  std::vector<Running> running_;
  StepResult result_;
  uint64_t step_ = 0;
};

}  // namespace

void RunSequences(ExecutorUnderTest& executor, const WildSchedule& schedule,
                  std::vector<TestSequence>& sequences) {
  Driver(executor, schedule).Run(sequences);
}

}  // namespace quire
