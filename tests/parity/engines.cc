#include "tests/parity/engines.h"

#include "scheduler/check.h"
#include "tests/worker/device/cpu/executor_driver.h"
#include "tests/worker/device/torch_baseline/baseline_driver.h"
#include "worker/device/cpu/cpu_executor.h"
#include "worker/device/torch_baseline/torch_baseline_executor.h"

namespace quire {
namespace {

std::shared_ptr<const SamplingParams> Greedy(bool every_position) {
  auto params = std::make_shared<SamplingParams>();
  params->temperature = 0;
  if (every_position) params->prompt_logprobs = 0;
  return params;
}

// All tokens but the last: a prompt whose every position gives logits.
std::vector<TokenId> Forced(const Golden& golden) {
  return {golden.ids.begin(), golden.ids.end() - 1};
}

std::vector<Answer> AskPaged(const std::shared_ptr<const Weights>& weights,
                             const std::vector<Golden>& goldens) {
  constexpr uint32_t kRunning = 32;
  CpuExecutorOptions options;
  options.num_slots = kRunning;
  options.max_num_batched_tokens = 512;
  options.num_blocks = kRunning * (weights->config().max_position_embeddings / options.block_size);
  auto executor = CpuExecutor::Create(options, weights);
  QUIRE_CHECK(executor.ok());

  std::vector<TestSequence> sequences;
  for (const Golden& golden : goldens) {
    TestSequence& free = sequences.emplace_back();
    free.prompt = golden.prompt();
    free.num_new_tokens = static_cast<uint32_t>(golden.output().size());
    free.params = Greedy(false);
    TestSequence& forced = sequences.emplace_back();
    forced.prompt = Forced(golden);
    forced.num_new_tokens = 1;
    forced.params = Greedy(true);
  }
  RunSequences(**executor, {.seed = 1, .max_running = kRunning, .max_chunk = 64}, sequences);

  std::vector<Answer> answers(goldens.size());
  for (size_t i = 0; i < goldens.size(); ++i) {
    QUIRE_CHECK(sequences[2 * i].faults.empty() && sequences[2 * i + 1].faults.empty());
    answers[i].output = sequences[2 * i].output;
    for (const auto& [position, row] : sequences[2 * i + 1].logits) {
      answers[i].logits.insert(answers[i].logits.end(), row.begin(), row.end());
    }
  }
  return answers;
}

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

const std::vector<std::string>& EngineNames() {
  static const auto& names =
      *new std::vector<std::string>{"paged", "baseline-dynamic", "baseline-static"};
  return names;
}

std::vector<Answer> Ask(const std::string& engine, const std::shared_ptr<const Weights>& weights,
                        const std::vector<Golden>& goldens) {
  if (engine == "paged") return AskPaged(weights, goldens);
  return AskBaseline(engine == "baseline-static" ? BaselineCache::kStatic : BaselineCache::kDynamic,
                     weights, goldens);
}

}  // namespace quire
