#include "worker/model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/worker/model/safetensors_writer.h"
#include "tests/worker/model/temp_folder.h"
#include "worker/model/dummy_weights.h"
#include "worker/model/range_table.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 4;
  config.hidden_size = 2;
  config.intermediate_size = 3;
  config.num_layers = 1;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  config.max_position_embeddings = 64;
  config.tie_word_embeddings = true;
  return config;
}

struct TensorSpec {
  std::string name;
  std::vector<uint64_t> shape;
};

std::vector<TensorSpec> TinyTensors() {
  const std::string layer = "model.layers.0.";
  return {{"model.embed_tokens.weight", {4, 2}},
          {layer + "input_layernorm.weight", {2}},
          {layer + "self_attn.q_proj.weight", {16, 2}},
          {layer + "self_attn.k_proj.weight", {16, 2}},
          {layer + "self_attn.v_proj.weight", {16, 2}},
          {layer + "self_attn.o_proj.weight", {2, 16}},
          {layer + "post_attention_layernorm.weight", {2}},
          {layer + "mlp.gate_proj.weight", {3, 2}},
          {layer + "mlp.up_proj.weight", {3, 2}},
          {layer + "mlp.down_proj.weight", {2, 3}},
          {"model.norm.weight", {2}}};
}

uint64_t Elements(const TensorSpec& spec) {
  uint64_t count = 1;
  for (uint64_t size : spec.shape) count *= size;
  return count;
}

// A float32 checkpoint in which every value of tensor number i is i + 1, unless `edit` changes it.
template <typename Edit>
void WriteCheckpoint(const TempFolder& temp, std::vector<TensorSpec> tensors, Edit edit) {
  SafetensorsWriter writer;
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<float> values(Elements(tensors[i]), static_cast<float>(i + 1));
    edit(tensors[i].name, values);
    writer.Add<float>(tensors[i].name, "F32", tensors[i].shape, values);
  }
  temp.Write("model.safetensors", writer.Bytes());
}

void WriteCheckpoint(const TempFolder& temp, std::vector<TensorSpec> tensors) {
  WriteCheckpoint(temp, std::move(tensors), [](const std::string&, std::vector<float>&) {});
}

TEST(Weights, ViewsHaveRoleShapeAndValue) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors());
  const auto weights = Weights::Load(temp.path(), TinyConfig(), {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->dtype(), DType::kF32);  // as stored
  const LayerWeights& layer = (*weights)->layers()[0];
  const WeightView* views[] = {&(*weights)->embedding(),
                               &layer.input_norm,
                               &layer.q,
                               &layer.k,
                               &layer.v,
                               &layer.o,
                               &layer.post_attention_norm,
                               &layer.gate,
                               &layer.up,
                               &layer.down,
                               &(*weights)->final_norm()};
  const std::vector<TensorSpec> tensors = TinyTensors();
  uint64_t num_bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(views[i]->rows, tensors[i].shape[0]) << tensors[i].name;
    EXPECT_EQ(views[i]->cols, tensors[i].shape.size() > 1 ? tensors[i].shape[1] : 1);
    EXPECT_EQ(views[i]->f32()[views[i]->num_elements() - 1], static_cast<float>(i + 1))
        << tensors[i].name;
    num_bytes += views[i]->num_bytes();
  }
  EXPECT_EQ((*weights)->num_bytes(), num_bytes);
  EXPECT_EQ((*weights)->lm_head().data, (*weights)->embedding().data);
  EXPECT_FALSE(layer.q_bias || layer.q_norm || layer.o_bias || layer.gate_bias);
}

TEST(Weights, AMissingOrMisshapenTensorIsNamed) {
  for (const TensorSpec& victim : TinyTensors()) {
    const TempFolder temp;
    std::vector<TensorSpec> tensors = TinyTensors();
    std::erase_if(tensors, [&](const TensorSpec& t) { return t.name == victim.name; });
    WriteCheckpoint(temp, tensors);
    const auto missing = Weights::Load(temp.path(), TinyConfig(), {});
    EXPECT_EQ(missing.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(missing.status().message()),
                AllOf(HasSubstr(victim.name), HasSubstr("missing")));

    tensors.push_back({victim.name, {Elements(victim)}});
    if (victim.shape.size() == 1) tensors.back().shape = {1, Elements(victim)};
    WriteCheckpoint(temp, tensors);
    const auto misshapen = Weights::Load(temp.path(), TinyConfig(), {});
    EXPECT_THAT(std::string(misshapen.status().message()),
                AllOf(HasSubstr(victim.name), HasSubstr("config.json asks for")));
  }
}

TEST(Weights, BiasesNormsAndHeadAreNeededWhenTheConfigSaysSo) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors());
  const std::pair<void (*)(ModelConfig&), const char*> kCases[] = {
      {[](ModelConfig& c) { c.qkv_bias = true; }, "q_proj.bias"},
      {[](ModelConfig& c) { c.attn_output_bias = true; }, "o_proj.bias"},
      {[](ModelConfig& c) { c.mlp_bias = true; }, "gate_proj.bias"},
      {[](ModelConfig& c) { c.qk_norm = true; }, "q_norm.weight"},
      {[](ModelConfig& c) { c.tie_word_embeddings = false; }, "lm_head.weight"},
  };
  for (const auto& [change, name] : kCases) {
    ModelConfig config = TinyConfig();
    change(config);
    EXPECT_THAT(std::string(Weights::Load(temp.path(), config, {}).status().message()),
                HasSubstr(name));
  }
}

TEST(Weights, IntegerWeightsAreRefused) {
  const TempFolder temp;
  SafetensorsWriter writer;
  writer.Add<int32_t>("model.embed_tokens.weight", "I32", {4, 2}, std::vector<int32_t>(8));
  temp.Write("model.safetensors", writer.Bytes());
  EXPECT_THAT(std::string(Weights::Load(temp.path(), TinyConfig(), {}).status().message()),
              AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr("I32")));
}

TEST(Weights, OverflowStopsTheLoadWithNameAndCount) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors(), [](const std::string& name, std::vector<float>& values) {
    if (name == "model.layers.0.mlp.up_proj.weight")
      values = {1e6f, -70000.0f, 1e-12f, 0.0f, 1.0f, 2.0f};
  });
  const auto refused = Weights::Load(temp.path(), TinyConfig(), {.dtype = DType::kF16});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("mlp.up_proj.weight"),
                    HasSubstr("of 6 values 2 overflow float16 and 1 become zero")));

  const auto clamped =
      Weights::Load(temp.path(), TinyConfig(), {.dtype = DType::kF16, .allow_overflow = true});
  ASSERT_TRUE(clamped.ok()) << clamped.status();
  EXPECT_THAT((*clamped)->warnings(), ElementsAre(HasSubstr("2 overflow float16")));
  EXPECT_EQ(FloatFromF16((*clamped)->layers()[0].up.bits16()[1]), -65504.0f);
  EXPECT_TRUE(Weights::Load(temp.path(), TinyConfig(), {.dtype = DType::kBF16}).ok());
}

TEST(Weights, TiedHeadThatDiffersIsUsed) {
  std::vector<TensorSpec> tensors = TinyTensors();
  tensors.push_back({"lm_head.weight", {4, 2}});
  const TempFolder temp;
  WriteCheckpoint(temp, tensors);
  const auto both = Weights::Load(temp.path(), TinyConfig(), {});
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ((*both)->lm_head().f32()[0], 12.0f);
  EXPECT_THAT((*both)->warnings(), ElementsAre(HasSubstr("lm_head.weight differs")));

  WriteCheckpoint(temp, tensors, [](const std::string& name, std::vector<float>& values) {
    if (name == "lm_head.weight") values.assign(8, 1.0f);
  });
  const auto same = Weights::Load(temp.path(), TinyConfig(), {});
  EXPECT_EQ((*same)->lm_head().data, (*same)->embedding().data);
  EXPECT_THAT((*same)->warnings(), IsEmpty());

  tensors.erase(tensors.begin());
  WriteCheckpoint(temp, tensors);
  const auto head_only = Weights::Load(temp.path(), TinyConfig(), {});
  ASSERT_TRUE(head_only.ok()) << head_only.status();
  EXPECT_EQ((*head_only)->embedding().f32()[0], 11.0f);
}

TEST(Weights, UnusedTensorsAreNamedInAWarning) {
  std::vector<TensorSpec> tensors = TinyTensors();
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {8}});
  tensors.push_back({"vision.weight", {1}});
  const TempFolder temp;
  WriteCheckpoint(temp, tensors);
  const auto weights = Weights::Load(temp.path(), TinyConfig(), {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->warnings(),
              ElementsAre(AllOf(HasSubstr("1 tensors"), HasSubstr("vision.weight"))));
}

TEST(Weights, DigestsFollowTheStoredBytes) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors());
  const auto first = Weights::Load(temp.path(), TinyConfig(), {});
  const auto cast = Weights::Load(temp.path(), TinyConfig(), {.dtype = DType::kBF16});
  const std::vector<WeightDigest> digests = (*first)->ComputeDigests(2);
  ASSERT_EQ(digests.size(), 11u);
  EXPECT_EQ(digests[3].digest, (*cast)->ComputeDigests(1)[3].digest);

  const TempFolder other;
  WriteCheckpoint(other, TinyTensors(), [](const std::string& name, std::vector<float>& values) {
    if (name == "model.norm.weight") values[1] = 5.5f;
  });
  const std::vector<WeightDigest> changed =
      (*Weights::Load(other.path(), TinyConfig(), {}))->ComputeDigests(1);
  for (size_t i = 0; i < digests.size(); ++i) {
    EXPECT_EQ(changed[i].name, digests[i].name);
    EXPECT_EQ(changed[i].digest != digests[i].digest, digests[i].name == "model.norm.weight");
  }
}

TEST(Weights, AnFp16CheckpointRunsInFp32UnlessAskedOtherwise) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors());
  ModelConfig config = TinyConfig();
  config.dtype = DType::kF16;
  const auto weights = Weights::Load(temp.path(), config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->dtype(), DType::kF32);
  EXPECT_THAT((*weights)->warnings(), ElementsAre(HasSubstr("fp32")));
  const auto bf16 = Weights::Load(temp.path(), config, {.dtype = DType::kBF16});
  ASSERT_TRUE(bf16.ok()) << bf16.status();
  EXPECT_EQ((*bf16)->dtype(), DType::kBF16);
  EXPECT_THAT((*bf16)->warnings(), IsEmpty());
}

TEST(Inspect, TableOfRanges) {
  const TempFolder temp;
  WriteCheckpoint(temp, TinyTensors());
  const auto ranges = InspectCheckpoint(temp.path(), 2);
  ASSERT_TRUE(ranges.ok()) << ranges.status();
  ASSERT_EQ(ranges->size(), 11u);
  EXPECT_EQ((*ranges)[0].name, "model.embed_tokens.weight");
  EXPECT_EQ((*ranges)[0].shape, "[4, 2]");
  EXPECT_EQ((*ranges)[0].num_elements, 8u);
  EXPECT_EQ((*ranges)[0].max, 1.0f);
}

TEST(Inspect, TableAsText) {
  TensorRange range = {.name = "a.weight", .dtype = "F32", .shape = "[2, 3]"};
  const float values[] = {-90000.0f, 1e-9f, 0.0f, 0.25f, 3.0f, 1.0f};
  AccumulateRange(values, DType::kF32, 6, &range);
  EXPECT_EQ(RangeTable({range, {.name = "b", .dtype = "BF16", .shape = "[1]"}}),
            "tensor    dtype  shape      min  max  smallest  not finite  over bf16  zero in bf16"
            "  over fp16  zero in fp16\n"
            "a.weight  F32    [2, 3]  -9e+04    3     1e-09           0          0             0"
            "          1             1\n"
            "b         BF16   [1]          0    0         0           0          0             0"
            "          0             0\n");
}

TEST(DummyWeights, SameOnAnyNumberOfThreadsAndCloseToNormal) {
  ModelConfig config = TinyConfig();
  config.vocab_size = 50000;
  config.hidden_size = 64;
  config.head_dim = 64;
  const LoadOptions one = {.format = LoadFormat::kDummy, .dtype = DType::kF32};
  LoadOptions three = one;
  three.num_threads = 3;
  const auto a = Weights::Load("", config, one);
  const auto b = Weights::Load("", config, three);
  ASSERT_TRUE(a.ok() && b.ok());
  const WeightView& view = (*a)->embedding();
  EXPECT_EQ(std::memcmp(view.data, (*b)->embedding().data, view.num_bytes()), 0);
  EXPECT_NE(std::memcmp((*a)->layers()[0].q.data, (*a)->layers()[0].k.data, 1024), 0);

  double sum = 0, squares = 0;
  for (uint64_t i = 0; i < view.num_elements(); ++i) {
    sum += view.f32()[i];
    squares += static_cast<double>(view.f32()[i]) * view.f32()[i];
  }
  const double n = static_cast<double>(view.num_elements());
  EXPECT_NEAR(sum / n, 0.0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n), 0.02, 1e-4);
  EXPECT_EQ((*a)->final_norm().f32()[5], 1.0f);

  // Any part alone gives what the whole holds.
  float part[3];
  FillDummyElements("model.embed_tokens.weight", config, 1234567, 3, DType::kF32, part);
  EXPECT_EQ(std::memcmp(part, view.f32() + 1234567, sizeof(part)), 0);
}

}  // namespace
}  // namespace quire
