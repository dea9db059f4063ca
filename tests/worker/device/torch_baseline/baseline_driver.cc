#include "tests/worker/device/torch_baseline/baseline_driver.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "scheduler/check.h"

namespace quire {
namespace {

void Step(TorchBaselineExecutor& executor, const StepPlan& plan, StepResult* result) {
  QUIRE_CHECK(executor.Launch(plan).ok());
  QUIRE_CHECK(executor.Collect(result).ok());
  QUIRE_CHECK(result->step == plan.step && result->outputs.size() == plan.runs.size());
}

template <typename T>
void MoveAll(std::vector<T>& from, std::vector<T>& to) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
}

}  // namespace

std::shared_ptr<const SamplingParams> GreedyWithLogprobs(uint32_t num_top) {
  auto params = std::make_shared<SamplingParams>();
  params->temperature = 0;
  params->logprobs = num_top;
  params->prompt_logprobs = num_top;
  return params;
}

BaselineOutcome RunBaseline(TorchBaselineExecutor& executor, const BaselineRequest& request,
                            uint32_t max_chunk) {
  BaselineOutcome outcome;
  StepPlan plan;
  SlotFill& fill = plan.filled.emplace_back();
  fill.tokens = request.prompt;
  fill.tokens.insert(fill.tokens.end(), request.emitted.begin(), request.emitted.end());
  fill.num_prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  fill.params = request.params;
  uint32_t left = static_cast<uint32_t>(fill.tokens.size());
  StepResult result;
  while (outcome.output.size() < request.num_new_tokens && outcome.fault == NumericFault::kNone) {
    ++plan.step;
    plan.num_tokens = std::min(left, max_chunk);
    left -= plan.num_tokens;
    plan.runs.push_back({.slot = 0, .num_tokens = plan.num_tokens, .samples = left == 0});
    Step(executor, plan, &result);
    outcome.fault = result.outputs[0].fault;
    MoveAll(result.tokens, outcome.output);
    for (StepResult::Logprobs& entry : result.logprobs) {
      QUIRE_CHECK(entry.prompt.empty() ||
                  entry.first_prompt_position == outcome.prompt_logprobs.size() + 1);
      MoveAll(entry.tokens, outcome.logprobs);
      MoveAll(entry.prompt, outcome.prompt_logprobs);
    }
    outcome.kv.push_back(result.kv);
    if (left == 0) left = 1;  // the token just sampled
    plan.filled.clear();
    plan.runs.clear();
  }
  plan.freed.push_back(0);
  ++plan.step;
  Step(executor, plan, &result);
  return outcome;
}

}  // namespace quire
