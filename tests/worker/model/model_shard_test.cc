#include "worker/model/model_shard.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quire {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.architecture = Architecture::kQwen2;
  config.vocab_size = 100;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 64;
  config.qkv_bias = true;
  return config;
}

std::shared_ptr<const Weights> Load(const ModelConfig& config) {
  LoadOptions options;
  options.format = LoadFormat::kDummy;
  options.dtype = DType::kF32;
  const auto weights = Weights::Load("", config, options);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return *weights;
}

TEST(ModelShardTest, PartsOfTheRanksMakeTheWholeInOrder) {
  const auto weights = Load(Config());
  constexpr uint32_t kSize = 2;
  std::vector<ShardWeights> parts;
  for (uint32_t rank = 0; rank < kSize; ++rank) {
    parts.push_back(SliceWeights(*weights, {rank, kSize}));
  }
  const auto expect_joined = [&](const WeightView& whole,
                                 const std::function<WeightView(const ShardWeights&)>& of) {
    const auto* next = static_cast<const std::byte*>(whole.data);
    uint64_t rows = 0;
    for (const ShardWeights& part : parts) {
      EXPECT_EQ(of(part).data, next);
      EXPECT_EQ(of(part).cols, whole.cols);
      next += of(part).num_bytes();
      rows += of(part).rows;
    }
    EXPECT_EQ(rows, whole.rows);
  };
  for (size_t i = 0; i < weights->layers().size(); ++i) {
    for (WeightView LayerWeights::*const view :
         {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v, &LayerWeights::q_bias,
          &LayerWeights::k_bias, &LayerWeights::v_bias, &LayerWeights::o, &LayerWeights::gate,
          &LayerWeights::up, &LayerWeights::down}) {
      expect_joined(weights->layers()[i].*view,
                    [&](const ShardWeights& part) { return part.layers[i].*view; });
    }
    // Whole on every rank, or nowhere.
    for (const ShardWeights& part : parts) {
      EXPECT_EQ(part.layers[i].input_norm.data, weights->layers()[i].input_norm.data);
      EXPECT_EQ(part.layers[i].input_norm.rows, 64u);
      EXPECT_FALSE(part.layers[i].o_bias);
    }
  }
  // 100 logits: 64, and the 36 that are left.
  expect_joined(weights->lm_head(), [](const ShardWeights& part) { return part.lm_head; });
  EXPECT_EQ(parts[0].lm_head.rows, 64u);
  EXPECT_EQ(parts[1].lm_head.rows, 36u);
}

TEST(ModelShardTest, OneRankIsTheModel) {
  ModelConfig config = Config();
  config.tie_word_embeddings = true;
  const auto weights = Load(config);
  const ShardSizes sizes = SizesOf(config, {});
  EXPECT_EQ(sizes.q_size, config.q_size());
  EXPECT_EQ(sizes.kv_size, config.kv_size());
  EXPECT_EQ(sizes.vocab_size, 100u);
  EXPECT_EQ(sizes.vocab_part, 100u);
  const ShardWeights whole = SliceWeights(*weights, {});
  EXPECT_TRUE(whole.has_tied_lm_head);
  EXPECT_EQ(whole.lm_head.data, weights->embedding().data);
  EXPECT_EQ(whole.lm_head.rows, 100u);
  EXPECT_EQ(whole.layers[1].down.rows, weights->layers()[1].down.rows);
}

TEST(ModelShardTest, RefusesByTheFieldWhatRanksCannotShare) {
  const auto error = [](uint32_t size, const std::function<void(ModelConfig&)>& edit) {
    ModelConfig config = Config();
    edit(config);
    return std::string(CheckShards(config, size).message());
  };
  const auto keep = [](ModelConfig&) {};
  EXPECT_EQ(error(1, keep), "");
  EXPECT_EQ(error(2, keep), "");
  EXPECT_EQ(error(0, keep), "tensor_parallel_size 0: at least 1");
  EXPECT_EQ(error(3, keep),
            "tensor_parallel_size 3: the model's num_attention_heads, 4, is not a multiple of 3");
  EXPECT_EQ(error(4, keep),
            "tensor_parallel_size 4: the model's num_key_value_heads, 2, is not a multiple of 4");
  EXPECT_EQ(error(2, [](ModelConfig& config) { config.hidden_size = 72; }),
            "tensor_parallel_size 2: the model's hidden_size, 72, is not a multiple of 32");
  EXPECT_EQ(error(2, [](ModelConfig& config) { config.intermediate_size = 80; }),
            "tensor_parallel_size 2: the model's intermediate_size, 80, is not a multiple of 32");
  EXPECT_EQ(error(2, [](ModelConfig& config) { config.vocab_size = 16; }),
            "tensor_parallel_size 2: the model's vocab_size, 16, is too small to be shared");
}

}  // namespace
}  // namespace quire
