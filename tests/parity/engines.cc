#include "tests/parity/engines.h"

#include "scheduler/check.h"
#include "tests/parity/paged_answers.h"
#include "tests/worker/device/cpu/cpu_under_test.h"
#include "tests/worker/device/torch_baseline/baseline_driver.h"
#include "worker/device/torch_baseline/torch_baseline_executor.h"

namespace quire {
namespace {

std::vector<Answer> AskBaseline(BaselineCache cache, const std::shared_ptr<const Weights>& weights,
                                const std::vector<Golden>& goldens) {
  auto executor = TorchBaselineExecutor::Create(weights, {.cache = cache});
  QUIRE_CHECK(executor.ok());
  std::vector<Answer> answers;
  for (const Golden& golden : goldens) {
    Answer& answer = answers.emplace_back();
    (*executor)->set_logits_observer(nullptr);
    answer.output =
        RunBaseline(**executor, {.prompt = golden.prompt(),
                                 .num_new_tokens = static_cast<uint32_t>(golden.output().size()),
                                 .params = Greedy(false)})
            .output;
    (*executor)->set_logits_observer([&](uint32_t, const float* logits) {
      answer.logits.insert(answer.logits.end(), logits, logits + golden.vocabulary);
    });
    RunBaseline(**executor,
                {.prompt = Forced(golden), .num_new_tokens = 1, .params = Greedy(true)});
  }
  return answers;
}

}  // namespace

std::string WhyNoEngines() { return ""; }

const std::vector<std::string>& CheckpointNames() {
  static const auto& names = *new std::vector<std::string>{"llama", "mistral", "qwen2", "qwen3"};
  return names;
}

const std::vector<std::string>& EngineNames() {
  static const auto& names =
      *new std::vector<std::string>{"paged", "baseline-dynamic", "baseline-static"};
  return names;
}

std::vector<Answer> Ask(const std::string& engine, const std::shared_ptr<const Weights>& weights,
                        const std::vector<Golden>& goldens) {
  if (engine == "paged") {
    return AskPaged(*MakeCpuUnderTest(PagedOptions<CpuExecutorOptions>(goldens), weights), goldens);
  }
  return AskBaseline(engine == "baseline-static" ? BaselineCache::kStatic : BaselineCache::kDynamic,
                     weights, goldens);
}

}  // namespace quire
