#include "tests/worker/device/exactness/test_models.h"

#include <cstdlib>

#include "scheduler/check.h"

namespace quire {
namespace {

// Grouped queries, tied embeddings.
ModelConfig Llama() {
  ModelConfig config;
  config.architecture = Architecture::kLlama;
  config.vocab_size = 199;
  config.hidden_size = 64;
  config.intermediate_size = 112;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 512;
  config.tie_word_embeddings = true;
  config.initializer_range = 0.2f;  // large enough for attention to prefer some keys over others
  return config;
}

}  // namespace

std::vector<TestModel> TestModels() {
  std::vector<TestModel> models;
  models.push_back({"llama", Llama()});

  ModelConfig mistral = Llama();  // a window that ends within blocks and segments
  mistral.architecture = Architecture::kMistral;
  mistral.tie_word_embeddings = false;
  mistral.sliding_window = 37;
  mistral.head_dim = 32;
  models.push_back({"mistral", mistral});

  ModelConfig qwen2 = Llama();  // biases, a group of 7, a hidden size that fills no vector
  qwen2.architecture = Architecture::kQwen2;
  qwen2.qkv_bias = true;
  qwen2.hidden_size = 72;
  qwen2.num_heads = 7;
  qwen2.num_kv_heads = 1;
  qwen2.head_dim = 48;
  models.push_back({"qwen2", qwen2});

  ModelConfig qwen3 = Llama();  // norms of queries and keys, a group larger than a tile
  qwen3.architecture = Architecture::kQwen3;
  qwen3.qk_norm = true;
  qwen3.num_heads = 20;
  qwen3.num_kv_heads = 1;
  qwen3.head_dim = 80;
  models.push_back({"qwen3", qwen3});
  return models;
}

std::vector<TestModel> ShardableModels() {
  std::vector<TestModel> models;
  ModelConfig llama = Llama();  // groups of 2, a vocabulary with a short last part, tied
  llama.intermediate_size = 192;
  llama.num_heads = 8;
  llama.num_kv_heads = 4;
  models.push_back({"llama_ranks", llama});

  ModelConfig qwen = Llama();  // biases, norms of queries and keys, an output layer of its own
  qwen.architecture = Architecture::kQwen3;
  qwen.tie_word_embeddings = false;
  qwen.qkv_bias = true;
  qwen.attn_output_bias = true;
  qwen.mlp_bias = true;
  qwen.qk_norm = true;
  qwen.vocab_size = 256;
  qwen.hidden_size = 128;
  qwen.intermediate_size = 128;
  qwen.num_heads = 4;
  qwen.num_kv_heads = 4;
  qwen.head_dim = 48;
  models.push_back({"qwen_ranks", qwen});
  return models;
}

ModelConfig TestModelNamed(const std::string& name) {
  for (const TestModel& model : TestModels()) {
    if (model.name == name) return model.config;
  }
  QUIRE_CHECK(false);
  std::abort();
}

std::shared_ptr<const Weights> RandomWeights(const ModelConfig& config, DType dtype) {
  LoadOptions options;
  options.format = LoadFormat::kDummy;
  options.dtype = dtype;
  absl::StatusOr<std::shared_ptr<const Weights>> weights = Weights::Load("", config, options);
  QUIRE_CHECK(weights.ok());
  return *std::move(weights);
}

std::shared_ptr<const SamplingParams> TestParams(uint32_t index) {
  auto params = std::make_shared<SamplingParams>();
  switch (index % 4) {
    case 0:
      params->temperature = 0;
      params->prompt_logprobs = 0;
      break;
    case 1:
      params->temperature = 1.0f;
      params->top_p = 0.9f;
      break;
    case 2:
      params->temperature = 0.7f;
      params->top_k = 20;
      params->min_p = 0.01f;
      params->repetition_penalty = 1.2f;
      break;
    default:
      params->temperature = 1.3f;
      params->presence_penalty = 0.5f;
      params->frequency_penalty = 0.25f;
      params->logprobs = 3;
      break;
  }
  params->seed = 1000 + index;
  return params;
}

uint64_t NumSchedules(uint64_t by_default) {
  const char* value = std::getenv("QUIRE_SCHEDULES");
  return value != nullptr ? std::strtoull(value, nullptr, 10) : by_default;
}

}  // namespace quire
