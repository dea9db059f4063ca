#include "worker/model/numerics_id.h"

#include <gtest/gtest.h>

#include <set>

#include "worker/model/sha256.h"

namespace quire {
namespace {

TEST(Sha256, KnownAnswers) {  // FIPS 180-4, examples
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(NumericsId, NoTwoListsOfPartsCollide) {
  const std::vector<NumericsParts> lists = {
      {},
      {{"", ""}},
      {{"a", "b"}},
      {{"b", "a"}},
      {{"ab", ""}},
      {{"a", "b"}, {"c", "d"}},
      {{"c", "d"}, {"a", "b"}},
      {{"a", "b1:c;1:d;"}},
      {{"a", "b"}, {"a", "b"}},
  };
  std::set<std::string> ids;
  for (const NumericsParts& parts : lists) ids.insert(NumericsId(parts));
  EXPECT_EQ(ids.size(), lists.size());
  EXPECT_EQ(NumericsId(lists[2]), NumericsId({{"a", "b"}}));
  EXPECT_EQ(NumericsId(lists[2]).size(), 64u);
}

ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 8;
  config.hidden_size = 16;
  config.intermediate_size = 16;
  config.num_layers = 1;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  config.max_position_embeddings = 64;
  return config;
}

std::string DummyId(const ModelConfig& config, DType dtype) {
  const auto weights = Weights::Load("", config, {.format = LoadFormat::kDummy, .dtype = dtype});
  EXPECT_TRUE(weights.ok()) << weights.status();
  return NumericsId(ModelNumericsParts(**weights, 1));
}

TEST(NumericsId, EachFieldThatCanChangeATokenChangesTheId) {
  std::vector<ModelConfig> configs(1, TinyConfig());
  const auto vary = [&](auto change) { change(configs.emplace_back(TinyConfig())); };
  vary([](ModelConfig& c) { c.architecture = Architecture::kMistral; });
  vary([](ModelConfig& c) { c.vocab_size = 9; });
  vary([](ModelConfig& c) { c.hidden_size = 32; });
  vary([](ModelConfig& c) { c.intermediate_size = 32; });
  vary([](ModelConfig& c) { c.num_layers = 2; });
  vary([](ModelConfig& c) { c.num_heads = 2; });
  vary([](ModelConfig& c) { c.num_heads = c.num_kv_heads = 2; });
  vary([](ModelConfig& c) { c.head_dim = 32; });
  vary([](ModelConfig& c) { c.rms_norm_eps = 1e-5f; });
  vary([](ModelConfig& c) { c.rope.theta = 10001; });
  vary([](ModelConfig& c) { c.rope.scaling = RopeScaling::kLinear; });
  vary([](ModelConfig& c) { c.rope.factor = 2; });
  vary([](ModelConfig& c) { c.rope.low_freq_factor = 2; });
  vary([](ModelConfig& c) { c.rope.high_freq_factor = 8; });
  vary([](ModelConfig& c) { c.rope.original_max_position_embeddings = 8; });
  vary([](ModelConfig& c) { c.qkv_bias = true; });
  vary([](ModelConfig& c) { c.attn_output_bias = true; });
  vary([](ModelConfig& c) { c.mlp_bias = true; });
  vary([](ModelConfig& c) { c.qk_norm = true; });
  vary([](ModelConfig& c) { c.tie_word_embeddings = true; });
  vary([](ModelConfig& c) { c.sliding_window = 4; });
  vary([](ModelConfig& c) { c.initializer_range = 0.03f; });
  std::set<std::string> ids;
  for (const ModelConfig& config : configs) ids.insert(DummyId(config, DType::kBF16));
  ids.insert(DummyId(TinyConfig(), DType::kF32));
  EXPECT_EQ(ids.size(), configs.size() + 1);

  // The context's length changes no token.
  ModelConfig longer = TinyConfig();
  longer.max_position_embeddings = 128;
  EXPECT_EQ(DummyId(longer, DType::kF32), DummyId(TinyConfig(), DType::kF32));
}

}  // namespace
}  // namespace quire
