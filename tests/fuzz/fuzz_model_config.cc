// config.json and generation_config.json. What is accepted keeps the promises of model_config.h;
// what is refused is refused with the file's name; warnings name a file.
#include <cmath>

#include "coordinator/model/served_model.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sections.h"
#include "worker/model/model_config.h"
#include "worker/model/numerics_id.h"

namespace quire {
namespace {

void CheckConfig(const ModelConfig& config) {
  for (const uint32_t count :
       {config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers,
        config.num_heads, config.num_kv_heads, config.max_position_embeddings}) {
    QUIRE_FUZZ_CHECK(count > 0, "a count is 0");
  }
  QUIRE_FUZZ_CHECK(config.head_dim > 0 && config.head_dim % 16 == 0 && config.head_dim <= 256,
                   std::to_string(config.head_dim));
  QUIRE_FUZZ_CHECK(config.num_heads % config.num_kv_heads == 0,
                   std::to_string(config.num_kv_heads));
  // Sizes that are products must not wrap: q_size() and kv_size() are 32 bits wide.
  QUIRE_FUZZ_CHECK(uint64_t{config.num_heads} * config.head_dim == config.q_size(), "q_size wraps");
  QUIRE_FUZZ_CHECK(std::isfinite(config.rms_norm_eps) && std::isfinite(config.rope.theta) &&
                       std::isfinite(config.rope.factor) && config.rope.factor > 0 &&
                       std::isfinite(config.initializer_range),
                   "a number that is not finite");
  QUIRE_FUZZ_CHECK(!config.sliding_window.has_value() || *config.sliding_window > 0, "no window");
}

void CheckGeneration(const GenerationConfig& generation, uint32_t vocab_size) {
  for (const uint32_t id : generation.eos_token_ids) {
    QUIRE_FUZZ_CHECK(id < vocab_size, std::to_string(id));
  }
  for (const auto& number : {generation.temperature, generation.top_p, generation.min_p,
                             generation.repetition_penalty}) {
    QUIRE_FUZZ_CHECK(!number.has_value() || std::isfinite(*number), "a number that is not finite");
  }
}

}  // namespace

QUIRE_FUZZ_TARGET(model_config, input) {
  const Sections sections = SplitSections(input);
  const std::string config = SectionOf(sections, "config.json");
  const std::string generation = SectionOf(sections, "generation_config.json");
  const auto description =
      ParseModelDescription(config, "config.json", generation, "generation_config.json");
  if (description.ok()) {
    CheckConfig(description->config);
    CheckGeneration(description->generation, description->config.vocab_size);
    for (const std::string& warning : description->warnings) {
      QUIRE_FUZZ_CHECK(warning.find("config.json") != std::string::npos && IsUtf8(warning),
                       warning);
    }
    QUIRE_FUZZ_CHECK(!NumericFields(description->config).empty(), "no numeric fields");
  } else {
    CheckRefusal(description.status(), {"config.json: "});
  }

  // The coordinator reads the same files for its defaults.
  ModelFiles files = {{"config.json", config}};
  if (!generation.empty()) files["generation_config.json"] = generation;
  const auto served = ServedModel::Load("m", files, {});
  if (!served.ok()) return CheckRefusal(served.status(), {"config.json: "});
  const GenerationDefaults& defaults = (*served)->defaults();
  QUIRE_FUZZ_CHECK(defaults.temperature >= 0 && defaults.temperature <= 2,
                   std::to_string(defaults.temperature));
  QUIRE_FUZZ_CHECK(defaults.top_p > 0 && defaults.top_p <= 1, std::to_string(defaults.top_p));
  QUIRE_FUZZ_CHECK(defaults.min_p >= 0 && defaults.min_p <= 1, std::to_string(defaults.min_p));
}

}  // namespace quire
