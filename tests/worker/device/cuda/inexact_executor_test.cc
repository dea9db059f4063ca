// What benchmarks compare exactness with: an executor that is not exact computes the same model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/source_tree.h"
#include "tests/worker/device/cuda/cuda_under_test.h"
#include "tests/worker/device/cuda/gpu_test.h"
#include "tests/worker/device/exactness/executor_driver.h"
#include "tests/worker/device/exactness/test_models.h"
#include "worker/model/model_config.h"
#include "worker/model/numerics_id.h"

namespace quire {
namespace {

using cuda::Expect;
using InexactExecutorTest = cuda::GpuTest;

CudaExecutorOptions Options(bool exact) {
  CudaExecutorOptions options;
  options.num_slots = 48;
  options.max_num_batched_tokens = 768;
  options.context_length = 1024;
  options.num_blocks = 1024;
  options.exact = exact;
  return options;
}

std::shared_ptr<const Weights> LoadTiny() {
  const std::string folder = SourcePath("models/quire-tiny");
  const ModelDescription description = Expect(LoadModelDescription(folder));
  LoadOptions options;
  options.dtype = DType::kBF16;
  options.num_threads = std::max(1u, std::thread::hardware_concurrency());
  return Expect(Weights::Load(folder, description.config, options));
}

// Prompts whose every position gives logits.
std::vector<TestSequence> Prompts(uint32_t vocabulary_size) {
  auto params = std::make_shared<SamplingParams>();
  params->temperature = 0;
  params->prompt_logprobs = 0;
  std::mt19937 random(1);
  std::vector<TestSequence> sequences;
  for (const uint32_t length : {2u, 17u, 63u, 64u, 65u, 128u, 129u, 300u, 520u}) {
    TestSequence& sequence = sequences.emplace_back();
    for (uint32_t i = 0; i < length; ++i) sequence.prompt.push_back(random() % vocabulary_size);
    sequence.num_new_tokens = 1;
    sequence.params = params;
  }
  return sequences;
}

TEST_F(InexactExecutorTest, GivesAboutTheLogitsOfTheExactOne) {
  const std::shared_ptr<const Weights> weights = LoadTiny();
  const auto exact = Expect(MakeCudaUnderTest(Options(true), *weights));
  const auto inexact = Expect(MakeCudaUnderTest(Options(false), *weights));
  std::vector<TestSequence> expected = Prompts(weights->config().vocab_size);
  RunSequences(*exact, {.seed = 1, .max_running = 9}, expected);
  // Decoded, alone and in company; as prompts in chunks.
  for (const WildSchedule& schedule :
       {WildSchedule{.seed = 2, .max_running = 1, .max_chunk = 1},
        WildSchedule{.seed = 3, .max_running = 9, .max_chunk = 1},
        WildSchedule{.seed = 4, .max_running = 9, .max_chunk = 400}}) {
    SCOPED_TRACE(schedule.seed);
    std::vector<TestSequence> sequences = Prompts(weights->config().vocab_size);
    RunSequences(*inexact, schedule, sequences);
    double squares = 0;
    double errors = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      ASSERT_EQ(sequences[s].logits.size(), expected[s].logits.size());
      for (const auto& [position, logits] : sequences[s].logits) {
        const std::vector<float>& wanted = expected[s].logits.at(position);
        for (size_t i = 0; i < logits.size(); ++i) {
          squares += double{wanted[i]} * wanted[i];
          errors += (double{logits[i]} - wanted[i]) * (double{logits[i]} - wanted[i]);
        }
      }
    }
    // Roundings to bf16 that fall otherwise, layer by layer.
    EXPECT_TRUE(errors < 0.03 * 0.03 * squares) << std::sqrt(errors / squares);  // false of NaN
  }
}

TEST_F(InexactExecutorTest, HasAnIdOfItsOwnAndNoFp32) {
  const ModelConfig config = TestModelNamed("llama");
  const auto create = [&](DType dtype, bool exact) {
    CudaExecutorOptions options = Options(exact);
    options.context_length = config.max_position_embeddings;
    return CudaExecutor::Create(options, *RandomWeights(config, dtype), nullptr);
  };
  const auto id = [&](bool exact) {
    return NumericsId(Expect(create(DType::kBF16, exact))->numerics_parts());
  };
  EXPECT_NE(id(true), id(false));
  EXPECT_EQ(create(DType::kF32, false).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
