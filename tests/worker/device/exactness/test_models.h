#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_TEST_MODELS_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_TEST_MODELS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/sampling_params.h"
#include "worker/model/weights.h"

namespace quire {

// Small models with random weights, one for each thing that can differ between architectures.
struct TestModel {
  std::string name;
  ModelConfig config;
};

std::vector<TestModel> TestModels();

// Others, which 2 and 4 ranks can share.
std::vector<TestModel> ShardableModels();

// The configuration of that name.
ModelConfig TestModelNamed(const std::string& name);

std::shared_ptr<const Weights> RandomWeights(const ModelConfig& config, DType dtype);

// One of four ways to sample: greedy with prompt log-probabilities, so that every position of the
// prompt gives logits; top-p; top-k with min-p and a penalty; other penalties with
// log-probabilities. The seed is 1000 + index.
std::shared_ptr<const SamplingParams> TestParams(uint32_t index);

// Random schedules to run of each dtype, over all models: QUIRE_SCHEDULES where that is set.
uint64_t NumSchedules(uint64_t by_default);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_TEST_MODELS_H_
