#ifndef QUIRE_WORKER_MODEL_MODEL_CONFIG_H_
#define QUIRE_WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/dtype.h"

// The Llama family as one set of numbers, read from a Hugging Face config.json.
//
// Every field of the file is one of three: used or checked here (a field that can change a token is
// implemented, or refused by name unless it holds its neutral value), on the committed list of
// fields known not to matter (model_config_fields.cc), or answered with one warning that names it.
namespace quire {

enum class Architecture : uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

// "LlamaForCausalLM" and so on.
std::string_view ArchitectureName(Architecture architecture);

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;  // linear and llama3; 1 otherwise
  // llama3 alone.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  uint32_t original_max_position_embeddings = 0;
};

// A model's shape, all values resolved and within range:
//   every count is > 0, head_dim is a multiple of 16 up to 256, num_heads is a multiple of
//   num_kv_heads.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;  // may differ from hidden_size / num_heads
  uint32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  RopeConfig rope;

  bool qkv_bias = false;          // Qwen2; Llama and Qwen3 with attention_bias
  bool attn_output_bias = false;  // Llama and Qwen3 with attention_bias
  bool mlp_bias = false;          // Llama
  bool qk_norm = false;  // Qwen3: RMSNorm over head_dim of each query and key head, before RoPE
  bool tie_word_embeddings = false;
  // Key j is visible to query i iff i - sliding_window < j <= i. Mistral alone. Absent: all j <= i.
  std::optional<uint32_t> sliding_window;

  // What config.json says the checkpoint is stored in. Absent: the dtype that its embedding is
  // stored in counts.
  std::optional<DType> dtype;
  // Standard deviation of freshly made weights; what the dummy load format draws.
  float initializer_range = 0.02f;

  uint32_t q_size() const { return num_heads * head_dim; }
  uint32_t kv_size() const { return num_kv_heads * head_dim; }
};

// What generation_config.json asks for. An absent value means the file says nothing.
struct GenerationConfig {
  std::vector<uint32_t> eos_token_ids;  // sorted, each once; may be empty
  std::optional<uint32_t> bos_token_id;
  std::optional<uint32_t> pad_token_id;
  // False or absent: greedy, as transformers takes it. True with no top_k means its default of 50
  // there.
  std::optional<bool> do_sample;
  std::optional<float> temperature;
  std::optional<uint32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<uint32_t> min_new_tokens;
  std::optional<uint32_t> max_new_tokens;
};

struct ModelDescription {
  ModelConfig config;
  GenerationConfig generation;
  // One sentence a line for the log; each names the file and the field.
  std::vector<std::string> warnings;
};

// Reads FOLDER/config.json and, if there is one, FOLDER/generation_config.json. Where the latter
// gives no EOS id, config.json's counts. NotFound: no config.json. InvalidArgument: a bad or
// unsupported field; the message names file, key and value.
absl::StatusOr<ModelDescription> LoadModelDescription(const std::string& folder);

// The same from the files' contents; the file names are used in messages. `generation_json` may be
// empty: no file.
absl::StatusOr<ModelDescription> ParseModelDescription(std::string_view config_json,
                                                       std::string_view config_file,
                                                       std::string_view generation_json,
                                                       std::string_view generation_file);

// The fields that can change a token, one "key=value" each in a fixed order: a part of numerics_id.
std::vector<std::string> NumericFields(const ModelConfig& config);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_MODEL_CONFIG_H_
