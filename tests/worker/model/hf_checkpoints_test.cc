// Round trips: what transformers saves for every architecture loads here with the same values, and
// the RoPE tables agree.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/worker/model/temp_folder.h"
#include "worker/model/model_config.h"
#include "worker/model/rope.h"
#include "worker/model/safetensors.h"
#include "worker/model/weights.h"

namespace quire {
namespace {

double Sum(const WeightView& view) {
  std::vector<float> values(view.num_elements());
  CastElements(view.data, view.dtype, values.data(), DType::kF32, values.size());
  double sum = 0;
  for (float value : values) sum += value;
  return sum;
}

void CompareRope(const std::string& folder, const ModelConfig& config) {
  const auto file = SafetensorsFile::Open(folder + "/rope.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const StoredTensor& cos = (*file)->tensors()[0];
  const StoredTensor& sin = (*file)->tensors()[1];
  ASSERT_EQ(cos.name, "cos");
  const RopeTables tables =
      ComputeRopeTables(config.rope, config.head_dim, static_cast<uint32_t>(cos.shape[0]));
  ASSERT_EQ(cos.shape[1], tables.half);
  // torch's powf and cosf are right to about an ulp, not to the bit: a frequency that is an ulp off
  // (1.2e-7 of an angle up to 4,096) moves a few columns by up to 5e-4. All others agree to an ulp.
  std::vector<float> want(2 * tables.cos.size());
  std::memcpy(want.data(), cos.data, cos.num_bytes);
  std::memcpy(want.data() + tables.cos.size(), sin.data, sin.num_bytes);
  size_t different = 0;
  float worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const float have = i < tables.cos.size() ? tables.cos[i] : tables.sin[i - tables.cos.size()];
    const float error = std::fabs(have - want[i]);
    worst = std::max(worst, error);
    different += error > 1.2e-7f;
  }
  EXPECT_LE(worst, 5e-4f);
  EXPECT_LE(different, want.size() / 8);
}

TEST(HfCheckpoints, EveryArchitectureLoadsWithItsValues) {
  const TempFolder temp;
  const std::string command =
      std::string(QUIRE_PYTHON " " QUIRE_TEST_SOURCE_DIR "/hf_checkpoints.py ") + temp.path();
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream stream(temp.path() + "/checkpoints.json");
  const nlohmann::json all = nlohmann::json::parse(stream, nullptr, false);
  ASSERT_EQ(all.size(), 9u);
  for (const auto& [name, facts] : all.items()) {
    SCOPED_TRACE(name);
    const std::string folder = temp.path() + "/" + name;
    const auto description = LoadModelDescription(folder);
    ASSERT_TRUE(description.ok()) << description.status();
    EXPECT_THAT(description->warnings, testing::IsEmpty());
    const ModelConfig& config = description->config;
    EXPECT_EQ(ArchitectureName(config.architecture), facts["architecture"].get<std::string>());
    EXPECT_EQ(config.head_dim, facts["head_dim"].get<uint32_t>());
    EXPECT_EQ(config.sliding_window.value_or(0), facts["sliding_window"].get<uint32_t>());
    EXPECT_EQ(config.tie_word_embeddings, facts["tied"].get<bool>());
    EXPECT_EQ(description->generation.eos_token_ids, facts["eos"].get<std::vector<uint32_t>>());
    ASSERT_TRUE(config.dtype.has_value());
    EXPECT_EQ(DTypeName(*config.dtype), facts["dtype"].get<std::string>());
    EXPECT_EQ(config.num_layers, 2u);
    CompareRope(folder, config);

    // Nothing here computes in fp16: such a checkpoint runs in fp32 unless told otherwise.
    const bool is_fp16 = *config.dtype == DType::kF16;
    for (const std::optional<DType> dtype :
         {std::optional<DType>(), std::optional<DType>(DType::kF32)}) {
      const auto weights = Weights::Load(folder, config, {.dtype = dtype, .num_threads = 2});
      ASSERT_TRUE(weights.ok()) << weights.status();
      EXPECT_EQ((*weights)->warnings().empty(), dtype.has_value() || !is_fp16);
      EXPECT_EQ((*weights)->dtype(), dtype.value_or(is_fp16 ? DType::kF32 : *config.dtype));
      EXPECT_DOUBLE_EQ(Sum((*weights)->layers()[1].down), facts["down_sum"].get<double>());
      EXPECT_DOUBLE_EQ(Sum((*weights)->final_norm()), facts["norm_sum"].get<double>());
      EXPECT_DOUBLE_EQ(Sum((*weights)->lm_head()), facts["head_sum"].get<double>());
      EXPECT_EQ((*weights)->lm_head().data == (*weights)->embedding().data,
                config.tie_word_embeddings);
      EXPECT_EQ((*weights)->ComputeDigests(2).size(), facts["num_tensors"].get<size_t>());
    }
  }
}

}  // namespace
}  // namespace quire
