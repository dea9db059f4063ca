#ifndef QUIRE_WORKER_MODEL_MODEL_CONFIG_FIELDS_H_
#define QUIRE_WORKER_MODEL_MODEL_CONFIG_FIELDS_H_

#include <span>
#include <string_view>

// What Quire knows about the config.json fields that it does not implement.
namespace quire {

// A field that would change tokens if it held anything else than null or one of `neutral` (JSON
// texts, separated by '|').
struct NeutralField {
  std::string_view key;
  std::string_view neutral;
};

std::span<const NeutralField> NeutralConfigFields();

// Fields that cannot change a token of greedy or sampled text from the architectures supported.
bool IsIgnoredConfigField(std::string_view key);

// The same for generation_config.json.
std::span<const NeutralField> NeutralGenerationFields();
bool IsIgnoredGenerationField(std::string_view key);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_MODEL_CONFIG_FIELDS_H_
