#ifndef QUIRE_WORKER_MODEL_DUMMY_WEIGHTS_H_
#define QUIRE_WORKER_MODEL_DUMMY_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "worker/model/dtype.h"
#include "worker/model/model_config.h"

// Random weights for measuring without a checkpoint: `--load-format dummy`.
//
// An element depends on the tensor's name and its own index alone, so any part can be made on any
// thread, and the same config gives the same weights on every host. Norm weights are 1; everything
// else is close to normal with mean 0 and the config's initializer_range as standard deviation
// (0.02), as a fresh model is. RMSNorm then keeps the input of every layer at unit scale, however
// many layers there are.
namespace quire {

// Counts up whenever the numbers change: it enters numerics_id.
inline constexpr uint32_t kDummyWeightsVersion = 1;

// Writes elements [first, first + count) of the tensor `name` to `to`, an array of `dtype`.
void FillDummyElements(std::string_view name, const ModelConfig& config, uint64_t first,
                       uint64_t count, DType dtype, void* to);

// Stands for the tensor's content in numerics_id.
std::string DummyDigest(std::string_view name, const ModelConfig& config);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_DUMMY_WEIGHTS_H_
