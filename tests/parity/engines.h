#ifndef QUIRE_TESTS_PARITY_ENGINES_H_
#define QUIRE_TESTS_PARITY_ENGINES_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/parity/goldens.h"
#include "worker/model/weights.h"

namespace quire {

// What an engine of ours gives for one golden.
struct Answer {
  std::vector<TokenId> output;  // greedy, as many tokens as the golden has
  std::vector<float> logits;    // shaped as the golden's: with its tokens as the prompt
};

// Each binary of parity tests has engines of its own: engines.cc for the CPU, cuda_engines.cc for
// the GPU.

// What this machine lacks to run them. Empty: nothing.
std::string WhyNoEngines();

// The engines that parity is asked of: "paged" (CpuExecutor, batched, in random chunks),
// "baseline-dynamic" and "baseline-static"; or "paged" and "cuda" (the same on CudaExecutor).
const std::vector<std::string>& EngineNames();

// The checkpoints that they are asked about, as make_goldens.py names them.
const std::vector<std::string>& CheckpointNames();

// One answer a golden.
std::vector<Answer> Ask(const std::string& engine, const std::shared_ptr<const Weights>& weights,
                        const std::vector<Golden>& goldens);

}  // namespace quire

#endif  // QUIRE_TESTS_PARITY_ENGINES_H_
