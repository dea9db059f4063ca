// E1 and E2: logits are bitwise a function of the tokens alone, whatever the company, the chunks,
// the slots and blocks, preemption, the threads and the instruction set.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/worker/device/cpu/cpu_under_test.h"
#include "tests/worker/device/exactness/executor_driver.h"
#include "tests/worker/device/exactness/same_bits.h"
#include "tests/worker/device/exactness/test_models.h"

namespace quire {
namespace {

std::vector<TestSequence> Requests(uint32_t count, uint32_t vocabulary) {
  std::mt19937 random(7);
  std::vector<TestSequence> sequences(count);
  for (uint32_t i = 0; i < count; ++i) {
    sequences[i].prompt.resize(1 + random() % (i % 3 == 0 ? 150 : 40));
    for (TokenId& token : sequences[i].prompt) token = random() % vocabulary;
    sequences[i].num_new_tokens = 1 + random() % 40;
    sequences[i].params = TestParams(i);
  }
  return sequences;
}

std::unique_ptr<ExecutorUnderTest> MakeExecutor(const std::shared_ptr<const Weights>& weights,
                                                uint32_t block_size, int num_threads, Isa isa) {
  CpuExecutorOptions options;
  options.num_threads = num_threads;
  options.num_slots = 12;
  options.max_num_batched_tokens = 256;
  options.block_size = block_size;
  options.num_blocks = 12 * 256 / block_size;
  options.isa = isa;
  return MakeCpuUnderTest(options, weights);
}

// What each sequence gives when it runs alone, one position a step: all else is then compared with
// decoding.
std::vector<TestSequence> RunAlone(const std::shared_ptr<const Weights>& weights,
                                   const std::vector<TestSequence>& requests, Isa isa) {
  auto executor = MakeExecutor(weights, 16, 1, isa);
  std::vector<TestSequence> sequences = requests;
  RunSequences(*executor, {.seed = 1, .max_running = 1, .max_chunk = 1}, sequences);
  return sequences;
}

class ExactnessTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  ExactnessTest()
      : config_(TestModelNamed(std::get<0>(GetParam()))),
        weights_(RandomWeights(config_, std::get<1>(GetParam()))) {}

  const ModelConfig config_;
  const std::shared_ptr<const Weights> weights_;
};

TEST_P(ExactnessTest, RandomSchedulesGiveTheBitsOfASequenceAlone) {
  const std::vector<TestSequence> requests = Requests(12, config_.vocab_size);
  const Isa isa = SupportedIsas().back();
  const std::vector<TestSequence> alone = RunAlone(weights_, requests, isa);
  for (const TestSequence& sequence : alone) {
    ASSERT_EQ(sequence.output.size(), sequence.num_new_tokens);
  }
  const uint64_t num_seeds = std::max<uint64_t>(1, NumSchedules(168) / (TestModels().size() * 6));
  for (const int num_threads : {1, 2}) {
    for (const uint32_t block_size : {8u, 16u, 48u}) {
      auto executor = MakeExecutor(weights_, block_size, num_threads, isa);
      for (uint64_t seed = 0; seed < num_seeds; ++seed) {
        const WildSchedule schedule = {.seed = seed,
                                       .max_running = 2 + static_cast<uint32_t>(seed) * 2 % 11,
                                       .max_chunk = seed % 2 == 0 ? 256u : 19u,
                                       .preempt_chance = seed % 3 == 0 ? 0.05 : 0.0};
        SCOPED_TRACE(testing::Message() << num_threads << " threads, blocks of " << block_size
                                        << ", schedule " << seed);
        std::vector<TestSequence> sequences = requests;
        RunSequences(*executor, schedule, sequences);
        ExpectSame(alone, sequences);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ExactnessTest, EveryInstructionSetGivesTheSameBits) {
  const std::vector<TestSequence> requests = Requests(6, config_.vocab_size);
  const std::vector<TestSequence> portable = RunAlone(weights_, requests, Isa::kPortable);
  for (const Isa isa : SupportedIsas()) {
    SCOPED_TRACE(IsaName(isa));
    auto executor = MakeExecutor(weights_, 16, 2, isa);
    std::vector<TestSequence> sequences = requests;
    RunSequences(*executor, {.seed = 3, .max_running = 6, .max_chunk = 64}, sequences);
    ExpectSame(portable, sequences);
    if (HasFatalFailure()) return;
  }
}

// E2: the rest of an output follows from any prefix of it.
TEST_P(ExactnessTest, ContinuesFromAnyEmittedPrefix) {
  const std::vector<TestSequence> requests = Requests(4, config_.vocab_size);
  const Isa isa = SupportedIsas().back();
  const std::vector<TestSequence> alone = RunAlone(weights_, requests, isa);
  auto executor = MakeExecutor(weights_, 16, 1, isa);
  for (size_t i = 0; i < alone.size(); ++i) {
    for (size_t emitted = 0; emitted < alone[i].output.size(); emitted += 5) {
      std::vector<TestSequence> again = {requests[i]};
      again[0].output.assign(alone[i].output.begin(),
                             alone[i].output.begin() + static_cast<std::ptrdiff_t>(emitted));
      RunSequences(*executor, {.seed = emitted, .max_running = 1, .max_chunk = 100}, again);
      ExpectSame({alone[i]}, again);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ExactnessTest,
                         testing::Combine(testing::Values("llama", "mistral", "qwen2", "qwen3"),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const testing::TestParamInfo<ExactnessTest::ParamType>& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::string(DTypeName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace quire
