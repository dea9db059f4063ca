#include "worker/model/model_config.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "worker/model/json_fields.h"
#include "worker/model/model_config_fields.h"
#include "worker/model/str_cat.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr JsonLimits kConfigLimits = {.max_bytes = size_t{4} << 20, .max_depth = 16};

// Ceilings far above any real model; with them no product of two sizes overflows 64 bits.
constexpr uint32_t kMaxVocabSize = 1u << 24;
constexpr uint32_t kMaxWidth = 1u << 20;
constexpr uint32_t kMaxLayers = 4096;
constexpr uint32_t kMaxHeads = 4096;
constexpr uint32_t kMaxHeadDim = 256;
// Positions are multiplied in fp32, which holds integers up to here.
constexpr uint32_t kMaxPosition = 1u << 24;

// What transformers 5.17 takes for a field that config.json does not have.
struct ArchitectureTraits {
  Architecture architecture;
  std::string_view model_type;
  std::string_view class_name;
  uint32_t default_max_position_embeddings;
  std::optional<uint32_t> default_kv_heads;  // absent: as many as query heads
  std::optional<uint32_t> default_head_dim;  // absent: hidden_size / num_attention_heads
  std::optional<uint32_t> default_bos_token_id;
  std::optional<uint32_t> default_eos_token_id;
};

constexpr ArchitectureTraits kTraits[] = {
    {Architecture::kLlama, "llama", "LlamaForCausalLM", 2048, {}, {}, 1, 2},
    {Architecture::kMistral, "mistral", "MistralForCausalLM", 131072, 8, {}, 1, 2},
    {Architecture::kQwen2, "qwen2", "Qwen2ForCausalLM", 32768, 32, {}, {}, {}},
    {Architecture::kQwen3, "qwen3", "Qwen3ForCausalLM", 32768, 32, 128, {}, {}},
};
constexpr uint32_t kMistralDefaultWindow = 4096;

const ArchitectureTraits* ReadArchitecture(FieldReader& reader) {
  const std::optional<std::string> model_type = reader.String("model_type");
  const auto* traits = std::find_if(
      std::begin(kTraits), std::end(kTraits),
      [&](const ArchitectureTraits& t) { return model_type && t.model_type == *model_type; });
  if (traits == std::end(kTraits)) {
    reader.Fail("model_type", "must be one of llama, mistral, qwen2, qwen3");
    return nullptr;
  }
  if (const Json* classes = reader.Find("architectures")) {
    if (!classes->is_array() ||
        std::find(classes->begin(), classes->end(), Json(traits->class_name)) == classes->end()) {
      reader.Fail("architectures",
                  StrCat("must list ", traits->class_name, " for model_type ", traits->model_type));
    }
  }
  return traits;
}

// Linear and llama3 scaling, from rope_parameters (transformers 5) or rope_theta and rope_scaling
// (before).
class RopeReader {
 public:
  RopeReader(FieldReader& top, std::string_view file, std::vector<std::string>* warnings)
      : top_(top), file_(file), warnings_(warnings) {}

  absl::StatusOr<RopeConfig> Read(uint32_t max_position_embeddings) {
    static const Json kEmpty = Json::object();
    const Json* nested = nullptr;
    std::string_view name = "rope_parameters.";
    // transformers prefers the older name where both are given.
    for (std::string_view key : {"rope_parameters", "rope_scaling"}) {
      const Json* value = top_.Find(key);
      if (value == nullptr) continue;
      if (!value->is_object()) {
        top_.Fail(key, "must be an object");
        return top_.status();
      }
      if (value->empty()) continue;
      nested = value;
      name = key == "rope_scaling" ? "rope_scaling." : "rope_parameters.";
    }
    FieldReader fields(nested == nullptr ? kEmpty : *nested, file_, name);
    RopeConfig rope = ReadFields(fields, max_position_embeddings);
    if (!fields.status().ok()) return fields.status();
    for (const std::string& key : fields.UnreadKeys()) {
      warnings_->push_back(
          StrCat(file_, ": ", name, key, " is not known to Quire and was ignored"));
    }
    return rope;
  }

 private:
  RopeConfig ReadFields(FieldReader& fields, uint32_t max_position_embeddings) {
    RopeConfig rope;
    const std::optional<double> outer_theta = top_.Number("rope_theta", 1.0, 1e12);
    const std::optional<double> inner_theta = fields.Number("rope_theta", 1.0, 1e12);
    rope.theta = inner_theta ? *inner_theta : outer_theta.value_or(rope.theta);

    const std::optional<std::string> old_type = fields.String("type");
    const std::string type = fields.String("rope_type").value_or(old_type.value_or("default"));
    const std::string_view type_key =
        fields.Contains("rope_type") || !old_type ? "rope_type" : "type";
    // Per-layer RoPE nests one object a layer type.
    for (std::string_view key : {"full_attention", "sliding_attention"}) {
      if (fields.Find(key) != nullptr)
        fields.Fail(key, "is not supported: RoPE is the same in all layers");
    }
    if (const auto rotary = fields.Number("partial_rotary_factor", 0.0, 1.0);
        rotary && *rotary != 1.0) {
      fields.Fail("partial_rotary_factor", "is not supported unless it is 1");
    }
    if (type == "default") {
      // Some files keep "factor": 1.0 beside it.
      if (const auto factor = fields.Number("factor", 0.0, 1e9); factor && *factor != 1.0) {
        fields.Fail("factor", "has no meaning without a scaling type");
      }
    } else if (type == "linear") {
      rope.scaling = RopeScaling::kLinear;
      rope.factor = fields.RequiredNumber("factor", 1e-3, 1e9);
    } else if (type == "llama3") {
      rope.scaling = RopeScaling::kLlama3;
      rope.factor = fields.RequiredNumber("factor", 1e-3, 1e9);
      rope.low_freq_factor = fields.RequiredNumber("low_freq_factor", 1e-3, 1e9);
      rope.high_freq_factor = fields.RequiredNumber("high_freq_factor", 1e-3, 1e9);
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        fields.Fail("high_freq_factor", "must be greater than low_freq_factor");
      }
      const auto outer = top_.Uint("original_max_position_embeddings", 1, kMaxPosition);
      const auto inner = fields.Uint("original_max_position_embeddings", 1, kMaxPosition);
      rope.original_max_position_embeddings =
          outer ? *outer : inner.value_or(max_position_embeddings);
    } else if (type == "dynamic") {
      fields.Fail(
          type_key,
          "is not supported: dynamic scaling makes cached keys depend on the current length");
    } else {
      fields.Fail(type_key, "is not supported; the types are default, linear and llama3");
    }
    return rope;
  }

  FieldReader& top_;
  std::string file_;
  std::vector<std::string>* warnings_;
};

void ReadAttention(FieldReader& reader, const ArchitectureTraits& traits, ModelConfig& config) {
  config.num_heads = reader.RequiredUint("num_attention_heads", 1, kMaxHeads);
  const uint32_t absent_kv_heads = reader.Contains("num_key_value_heads")
                                       ? config.num_heads  // null
                                       : traits.default_kv_heads.value_or(config.num_heads);
  config.num_kv_heads = reader.Uint("num_key_value_heads", 1, kMaxHeads).value_or(absent_kv_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    reader.Fail("num_key_value_heads",
                StrCat("must divide num_attention_heads (", config.num_heads, ")"));
  }
  const uint32_t absent_head_dim =
      traits.default_head_dim.value_or(config.hidden_size / config.num_heads);
  config.head_dim = reader.Uint("head_dim", 1, kMaxHeadDim).value_or(absent_head_dim);
  if (config.head_dim == 0 || config.head_dim % 16 != 0 || config.head_dim > kMaxHeadDim) {
    reader.Fail("head_dim", StrCat("must be a multiple of 16 up to ", kMaxHeadDim,
                                   "; this model's is ", config.head_dim));
  }

  const bool reads_attention_bias =
      traits.architecture == Architecture::kLlama || traits.architecture == Architecture::kQwen3;
  const bool attention_bias = reads_attention_bias && reader.Bool("attention_bias").value_or(false);
  config.qkv_bias = attention_bias || traits.architecture == Architecture::kQwen2;
  config.attn_output_bias = attention_bias;
  if (traits.architecture == Architecture::kLlama)
    config.mlp_bias = reader.Bool("mlp_bias").value_or(false);
  config.qk_norm = traits.architecture == Architecture::kQwen3;
}

void ReadWindow(FieldReader& reader, const ArchitectureTraits& traits, ModelConfig& config) {
  const bool qwen =
      traits.architecture == Architecture::kQwen2 || traits.architecture == Architecture::kQwen3;
  if (traits.architecture == Architecture::kMistral) {
    config.sliding_window = reader.Uint("sliding_window", 1, std::numeric_limits<int32_t>::max());
    if (!reader.Contains("sliding_window")) config.sliding_window = kMistralDefaultWindow;
  } else if (qwen) {
    reader.MarkRead("sliding_window");  // without use_sliding_window it says nothing
  } else if (reader.Find("sliding_window") != nullptr) {
    reader.Fail("sliding_window", StrCat("is not supported for ", traits.model_type));
  }
  if (reader.Bool("use_sliding_window").value_or(false) &&
      traits.architecture != Architecture::kMistral) {
    reader.Fail("use_sliding_window", StrCat("is not supported for ", traits.model_type));
  }
  if (const Json* types = reader.Find("layer_types")) {
    bool full = qwen && types->is_array() && types->size() == config.num_layers;
    if (full)
      full = std::all_of(types->begin(), types->end(),
                         [](const Json& t) { return t == "full_attention"; });
    if (!full) {
      reader.Fail("layer_types", qwen ? StrCat("must be \"full_attention\" for each of the ",
                                               config.num_layers, " layers")
                                      : StrCat("is not supported for ", traits.model_type));
    }
  }
}

void ReadDType(FieldReader& reader, ModelConfig& config) {
  // Both names may be there; transformers takes the newer one.
  for (std::string_view key : {"torch_dtype", "dtype"}) {
    const std::optional<std::string> name = reader.String(key);
    if (!name) continue;
    config.dtype = DTypeFromName(*name);
    if (!config.dtype) reader.Fail(key, "must be float32, bfloat16 or float16");
  }
}

bool IsNeutral(const Json& value, std::string_view neutral) {
  while (!neutral.empty()) {
    const std::string_view text = neutral.substr(0, neutral.find('|'));
    if (value == Json::parse(text, nullptr, /*allow_exceptions=*/false)) return true;
    neutral.remove_prefix(std::min(neutral.size(), text.size() + 1));
  }
  return false;
}

ModelConfig ReadFields(FieldReader& reader, std::string_view file,
                       std::vector<std::string>* warnings) {
  ModelConfig config;
  const ArchitectureTraits* traits = ReadArchitecture(reader);
  if (traits == nullptr) return config;
  config.architecture = traits->architecture;
  config.vocab_size = reader.RequiredUint("vocab_size", 2, kMaxVocabSize);
  config.hidden_size = reader.RequiredUint("hidden_size", 1, kMaxWidth);
  config.intermediate_size = reader.RequiredUint("intermediate_size", 1, kMaxWidth);
  config.num_layers = reader.RequiredUint("num_hidden_layers", 1, kMaxLayers);
  config.max_position_embeddings = reader.Uint("max_position_embeddings", 1, kMaxPosition)
                                       .value_or(traits->default_max_position_embeddings);
  config.rms_norm_eps = static_cast<float>(reader.Number("rms_norm_eps", 0.0, 1.0).value_or(1e-6));
  config.initializer_range =
      static_cast<float>(reader.Number("initializer_range", 0.0, 1.0).value_or(0.02));
  config.tie_word_embeddings = reader.Bool("tie_word_embeddings").value_or(false);
  if (const auto act = reader.String("hidden_act"); act && *act != "silu" && *act != "swish") {
    reader.Fail("hidden_act", "is not supported unless it is \"silu\"");
  }
  ReadAttention(reader, *traits, config);
  ReadWindow(reader, *traits, config);
  ReadDType(reader, config);
  if (!reader.status().ok()) return config;
  absl::StatusOr<RopeConfig> rope =
      RopeReader(reader, file, warnings).Read(config.max_position_embeddings);
  if (!rope.ok()) {
    reader.FailWith(rope.status());
    return config;
  }
  config.rope = *rope;
  for (const NeutralField& field : NeutralConfigFields()) {
    const Json* value = reader.Find(field.key);
    if (value != nullptr && !IsNeutral(*value, field.neutral)) {
      reader.Fail(field.key, "would change what the model computes and is not supported");
    }
  }
  return config;
}

// Where there is no generation_config.json, transformers takes these ids from config.json.
void ReadSpecialTokens(FieldReader& reader, const ModelConfig& config,
                       GenerationConfig& generation) {
  const auto* traits = std::find_if(
      std::begin(kTraits), std::end(kTraits),
      [&](const ArchitectureTraits& t) { return t.architecture == config.architecture; });
  generation.eos_token_ids = reader.TokenIds("eos_token_id", config.vocab_size);
  if (!reader.Contains("eos_token_id") &&
      traits->default_eos_token_id.value_or(config.vocab_size) < config.vocab_size) {
    generation.eos_token_ids = {*traits->default_eos_token_id};
  }
  generation.bos_token_id = reader.Uint("bos_token_id", 0, config.vocab_size - 1);
  if (!reader.Contains("bos_token_id")) generation.bos_token_id = traits->default_bos_token_id;
  // -1 is what some Llama files write for none.
  if (const Json* pad = reader.Find("pad_token_id"); pad != nullptr && *pad != -1) {
    generation.pad_token_id = reader.Uint("pad_token_id", 0, config.vocab_size - 1);
  }
}

absl::Status ReadGeneration(std::string_view text, std::string_view file, const ModelConfig& config,
                            GenerationConfig& generation, std::vector<std::string>* warnings) {
  absl::StatusOr<Json> json = ParseJsonObject(text, file, kConfigLimits);
  if (!json.ok()) return json.status();
  FieldReader reader(*json, file);
  const auto to_float = [](std::optional<double> value) {
    return value ? std::optional<float>(static_cast<float>(*value)) : std::nullopt;
  };
  if (reader.Find("eos_token_id") != nullptr) {
    generation.eos_token_ids = reader.TokenIds("eos_token_id", config.vocab_size);
  }
  if (const auto id = reader.Uint("bos_token_id", 0, config.vocab_size - 1))
    generation.bos_token_id = id;
  if (const Json* pad = reader.Find("pad_token_id"); pad != nullptr && *pad != -1) {
    generation.pad_token_id = reader.Uint("pad_token_id", 0, config.vocab_size - 1);
  }
  constexpr uint32_t kMaxCount = std::numeric_limits<int32_t>::max();
  generation.do_sample = reader.Bool("do_sample");
  generation.temperature = to_float(reader.Number("temperature", 0.0, 1e6));
  generation.top_k = reader.Uint("top_k", 0, kMaxCount);
  generation.top_p = to_float(reader.Number("top_p", 0.0, 1.0));
  generation.min_p = to_float(reader.Number("min_p", 0.0, 1.0));
  generation.repetition_penalty = to_float(reader.Number("repetition_penalty", 1e-6, 1e6));
  generation.min_new_tokens = reader.Uint("min_new_tokens", 0, kMaxCount);
  generation.max_new_tokens = reader.Uint("max_new_tokens", 1, kMaxCount);
  if (!reader.status().ok()) return reader.status();
  for (const NeutralField& field : NeutralGenerationFields()) {
    const Json* value = reader.Find(field.key);
    if (value != nullptr && !IsNeutral(*value, field.neutral)) {
      warnings->push_back(StrCat(file, ": ", field.key, " is ", JsonForMessage(*value),
                                 "; Quire does not apply it"));
    }
  }
  for (const std::string& key : reader.UnreadKeys()) {
    if (IsIgnoredGenerationField(key)) continue;
    warnings->push_back(StrCat(file, ": ", key, " is not known to Quire and was ignored"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) {
  for (const ArchitectureTraits& traits : kTraits) {
    if (traits.architecture == architecture) return traits.class_name;
  }
  return "";
}

absl::StatusOr<ModelDescription> ParseModelDescription(std::string_view config_json,
                                                       std::string_view config_file,
                                                       std::string_view generation_json,
                                                       std::string_view generation_file) {
  absl::StatusOr<Json> json = ParseJsonObject(config_json, config_file, kConfigLimits);
  if (!json.ok()) return json.status();
  ModelDescription description;
  FieldReader reader(*json, config_file);
  description.config = ReadFields(reader, config_file, &description.warnings);
  if (!reader.status().ok()) return reader.status();
  ReadSpecialTokens(reader, description.config, description.generation);
  if (!reader.status().ok()) return reader.status();
  for (const std::string& key : reader.UnreadKeys()) {
    if (IsIgnoredConfigField(key)) continue;
    description.warnings.push_back(
        StrCat(config_file, ": ", key, " is not known to Quire and was ignored"));
  }
  if (!generation_json.empty()) {
    const absl::Status status = ReadGeneration(generation_json, generation_file, description.config,
                                               description.generation, &description.warnings);
    if (!status.ok()) return status;
  }
  return description;
}

absl::StatusOr<ModelDescription> LoadModelDescription(const std::string& folder) {
  const std::string config_file = StrCat(folder, "/config.json");
  const std::string generation_file = StrCat(folder, "/generation_config.json");
  const absl::StatusOr<std::string> config = ReadSmallFile(config_file, kConfigLimits.max_bytes);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::string> generation = ReadSmallFile(generation_file, kConfigLimits.max_bytes);
  if (absl::IsNotFound(generation.status())) generation = std::string();
  if (!generation.ok()) return generation.status();
  return ParseModelDescription(*config, config_file, *generation, generation_file);
}

std::vector<std::string> NumericFields(const ModelConfig& config) {
  const auto exact = [](double value) {
    char text[40];
    std::snprintf(text, sizeof(text), "%.17g", value);
    return std::string(text);
  };
  constexpr std::string_view kScalingNames[] = {"none", "linear", "llama3"};
  const RopeConfig& rope = config.rope;
  return {
      StrCat("architecture=", ArchitectureName(config.architecture)),
      StrCat("vocab_size=", config.vocab_size),
      StrCat("hidden_size=", config.hidden_size),
      StrCat("intermediate_size=", config.intermediate_size),
      StrCat("num_layers=", config.num_layers),
      StrCat("num_heads=", config.num_heads),
      StrCat("num_kv_heads=", config.num_kv_heads),
      StrCat("head_dim=", config.head_dim),
      StrCat("rms_norm_eps=", exact(config.rms_norm_eps)),
      StrCat("rope_theta=", exact(rope.theta)),
      StrCat("rope_scaling=", kScalingNames[static_cast<size_t>(rope.scaling)]),
      StrCat("rope_factor=", exact(rope.factor)),
      StrCat("rope_low_freq_factor=", exact(rope.low_freq_factor)),
      StrCat("rope_high_freq_factor=", exact(rope.high_freq_factor)),
      StrCat("rope_original_max_position_embeddings=", rope.original_max_position_embeddings),
      StrCat("qkv_bias=", config.qkv_bias),
      StrCat("attn_output_bias=", config.attn_output_bias),
      StrCat("mlp_bias=", config.mlp_bias),
      StrCat("qk_norm=", config.qk_norm),
      StrCat("tie_word_embeddings=", config.tie_word_embeddings),
      StrCat("sliding_window=", config.sliding_window ? StrCat(*config.sliding_window) : "none"),
  };
}

}  // namespace quire
