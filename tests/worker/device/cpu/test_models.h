#ifndef QUIRE_TESTS_WORKER_DEVICE_CPU_TEST_MODELS_H_
#define QUIRE_TESTS_WORKER_DEVICE_CPU_TEST_MODELS_H_

#include <memory>
#include <string>
#include <vector>

#include "worker/model/weights.h"

namespace quire {

// Small models with random weights, one for each thing that can differ between architectures.
struct TestModel {
  std::string name;
  ModelConfig config;
};

std::vector<TestModel> TestModels();

// The configuration of that name.
ModelConfig TestModelNamed(const std::string& name);

std::shared_ptr<const Weights> RandomWeights(const ModelConfig& config, DType dtype);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_CPU_TEST_MODELS_H_
