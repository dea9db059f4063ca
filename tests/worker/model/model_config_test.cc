#include "worker/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Json = nlohmann::json;

Json Llama() {
  return {{"model_type", "llama"},
          {"architectures", {"LlamaForCausalLM"}},
          {"vocab_size", 1000},
          {"hidden_size", 128},
          {"intermediate_size", 256},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 512},
          {"torch_dtype", "bfloat16"}};
}

Json Family(const std::string& model_type, const std::string& class_name) {
  Json json = Llama();
  json["model_type"] = model_type;
  json["architectures"] = {class_name};
  return json;
}

absl::StatusOr<ModelDescription> Parse(const Json& config, const std::string& generation = "") {
  return ParseModelDescription(config.dump(), "config.json", generation, "generation_config.json");
}

// `base` with `patch` merged into it; a null in the patch stays as a null.
Json With(Json base, const char* patch) {
  const Json changes = Json::parse(patch);
  for (const auto& [key, value] : changes.items()) base[key] = value;
  return base;
}

TEST(ModelConfig, ReadsAPlainLlama) {
  const auto description = Parse(Llama());
  ASSERT_TRUE(description.ok()) << description.status();
  const ModelConfig& config = description->config;
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.vocab_size, 1000u);
  EXPECT_EQ(config.hidden_size, 128u);
  EXPECT_EQ(config.intermediate_size, 256u);
  EXPECT_EQ(config.num_layers, 3u);
  EXPECT_EQ(config.head_dim, 32u);
  EXPECT_EQ(config.q_size(), 128u);
  EXPECT_EQ(config.kv_size(), 64u);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_FALSE(config.qkv_bias || config.attn_output_bias || config.mlp_bias || config.qk_norm);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.sliding_window, std::nullopt);
  EXPECT_THAT(description->generation.eos_token_ids,
              ElementsAre(2));  // transformers' default for Llama
  EXPECT_THAT(description->warnings, IsEmpty());
}

TEST(ModelConfig, WhatAnAbsentFieldMeansDependsOnTheArchitecture) {
  Json mistral = Family("mistral", "MistralForCausalLM");
  mistral["num_attention_heads"] = 8;
  mistral.erase("num_key_value_heads");
  EXPECT_EQ(Parse(mistral)->config.num_kv_heads, 8u);
  EXPECT_EQ(Parse(mistral)->config.sliding_window, 4096u);
  EXPECT_EQ(Parse(With(mistral, R"({"sliding_window":null})"))->config.sliding_window,
            std::nullopt);
  EXPECT_EQ(Parse(With(mistral, R"({"sliding_window":7})"))->config.sliding_window, 7u);

  Json llama = Llama();
  llama.erase("num_key_value_heads");
  EXPECT_EQ(Parse(llama)->config.num_kv_heads, 4u);

  const auto qwen2 = Parse(Family("qwen2", "Qwen2ForCausalLM"));
  EXPECT_TRUE(qwen2->config.qkv_bias);
  EXPECT_FALSE(qwen2->config.attn_output_bias);
  EXPECT_THAT(qwen2->generation.eos_token_ids, IsEmpty());

  const auto qwen3 = Parse(Family("qwen3", "Qwen3ForCausalLM"));
  EXPECT_TRUE(qwen3->config.qk_norm);
  EXPECT_EQ(qwen3->config.head_dim, 128u);
  EXPECT_FALSE(qwen3->config.qkv_bias);

  Json no_dtype = Llama();
  no_dtype.erase("torch_dtype");
  EXPECT_EQ(Parse(no_dtype)->config.dtype, std::nullopt);
}

TEST(ModelConfig, BothRopeForms) {
  const auto old_form = Parse(
      With(Llama(), R"({"rope_theta":500000.0,"rope_scaling":{"type":"linear","factor":4}})"));
  ASSERT_TRUE(old_form.ok()) << old_form.status();
  EXPECT_EQ(old_form->config.rope.theta, 500000.0);
  EXPECT_EQ(old_form->config.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(old_form->config.rope.factor, 4.0);

  const auto new_form = Parse(
      With(Llama(), R"({"dtype":"float16","rope_parameters":{"rope_type":"llama3","rope_theta":1e6,
      "factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"));
  ASSERT_TRUE(new_form.ok()) << new_form.status();
  EXPECT_EQ(new_form->config.rope.theta, 1e6);
  EXPECT_EQ(new_form->config.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(new_form->config.rope.high_freq_factor, 4.0);
  EXPECT_EQ(new_form->config.rope.original_max_position_embeddings, 8192u);
  EXPECT_EQ(new_form->config.dtype, DType::kF16);  // the newer name counts

  const auto without_context =
      Parse(With(Llama(), R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,
      "low_freq_factor":1.0,"high_freq_factor":4.0}})"));
  EXPECT_EQ(without_context->config.rope.original_max_position_embeddings,
            512u);  // max_position_embeddings
}

struct BadField {
  const char* model_type;  // class name follows from it
  const char* patch;
  std::vector<std::string> words;
};

const BadField kBadFields[] = {
    {"gpt2", "{}", {"model_type", "\"gpt2\"", "llama, mistral, qwen2, qwen3"}},
    {"llama", R"({"model_type":null})", {"model_type"}},
    {"llama",
     R"({"architectures":["LlamaForSequenceClassification"]})",
     {"architectures", "LlamaForCausalLM"}},
    {"llama", R"({"vocab_size":null})", {"vocab_size"}},
    {"llama", R"({"vocab_size":-1})", {"vocab_size is -1", "from 2"}},
    {"llama", R"({"vocab_size":1e3})", {"vocab_size is 1000.0", "integer"}},
    {"llama", R"({"hidden_size":"128"})", {"hidden_size is \"128\""}},
    {"llama", R"({"hidden_size":18446744073709551615})", {"hidden_size is 18446744073709551615"}},
    {"llama", R"({"num_hidden_layers":0})", {"num_hidden_layers is 0"}},
    {"llama", R"({"num_attention_heads":1000000})", {"num_attention_heads is 1000000"}},
    {"llama",
     R"({"num_key_value_heads":3})",
     {"num_key_value_heads is 3", "divide num_attention_heads (4)"}},
    {"llama", R"({"head_dim":40})", {"head_dim is 40", "multiple of 16"}},
    {"llama", R"({"head_dim":272})", {"head_dim is 272"}},
    {"llama", R"({"hidden_size":100})", {"head_dim is missing", "25"}},
    {"llama", R"({"hidden_act":"gelu"})", {"hidden_act is \"gelu\"", "silu"}},
    {"llama", R"({"rms_norm_eps":"1e-6"})", {"rms_norm_eps"}},
    {"llama", R"({"rms_norm_eps":-1.0})", {"rms_norm_eps is -1.0"}},
    {"llama", R"({"tie_word_embeddings":1})", {"tie_word_embeddings is 1", "true or false"}},
    {"llama", R"({"torch_dtype":"float64"})", {"torch_dtype is \"float64\"", "bfloat16"}},
    {"llama", R"({"rope_scaling":"linear"})", {"rope_scaling is \"linear\"", "object"}},
    {"llama",
     R"({"rope_scaling":{"type":"dynamic","factor":2.0}})",
     {"rope_scaling.type is \"dynamic\"", "current length"}},
    {"llama",
     R"({"rope_parameters":{"rope_type":"yarn","factor":2.0}})",
     {"rope_parameters.rope_type is \"yarn\"", "linear and llama3"}},
    {"llama",
     R"({"rope_parameters":{"rope_type":"longrope"}})",
     {"rope_parameters.rope_type is \"longrope\""}},
    {"llama", R"({"rope_scaling":{"type":"linear"}})", {"rope_scaling.factor is missing"}},
    {"llama", R"({"rope_scaling":{"type":"linear","factor":0}})", {"rope_scaling.factor is 0"}},
    {"llama",
     R"({"rope_parameters":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0}})",
     {"rope_parameters.high_freq_factor is missing"}},
    {"llama",
     R"({"rope_parameters":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,"high_freq_factor":4.0}})",
     {"high_freq_factor is 4.0", "greater"}},
    {"llama",
     R"({"rope_parameters":{"full_attention":{"rope_theta":1.0}}})",
     {"rope_parameters.full_attention", "all layers"}},
    {"llama",
     R"({"rope_parameters":{"partial_rotary_factor":0.5}})",
     {"rope_parameters.partial_rotary_factor is 0.5"}},
    {"llama", R"({"rope_theta":0})", {"rope_theta is 0"}},
    {"llama", R"({"partial_rotary_factor":0.5})", {"partial_rotary_factor is 0.5"}},
    {"llama", R"({"sliding_window":16})", {"sliding_window is 16", "llama"}},
    {"llama", R"({"layer_types":["full_attention"]})", {"layer_types"}},
    {"mistral", R"({"sliding_window":0})", {"sliding_window is 0"}},
    {"qwen2", R"({"use_sliding_window":true})", {"use_sliding_window is true", "qwen2"}},
    {"qwen3", R"({"use_sliding_window":true})", {"use_sliding_window is true", "qwen3"}},
    {"qwen2",
     R"({"layer_types":["full_attention","full_attention","sliding_attention"]})",
     {"layer_types", "sliding_attention"}},
    {"qwen3", R"({"layer_types":["full_attention"]})", {"layer_types", "3 layers"}},
    {"llama",
     R"({"quantization_config":{"quant_method":"gptq"}})",
     {"quantization_config is {\"quant_method\":\"gptq\"}"}},
    {"llama", R"({"logits_scaling":8.0})", {"logits_scaling is 8.0", "not supported"}},
    {"llama", R"({"final_logit_softcapping":30.0})", {"final_logit_softcapping is 30.0"}},
    {"llama", R"({"per_layer_config":{"0":{"head_dim":32}}})", {"per_layer_config"}},
    {"llama", R"({"is_encoder_decoder":true})", {"is_encoder_decoder is true"}},
    {"llama", R"({"eos_token_id":1000})", {"eos_token_id is 1000", "vocab_size (1000)"}},
    {"llama", R"({"eos_token_id":[1,-2]})", {"eos_token_id is [1,-2]"}},
};

TEST(ModelConfig, BadFieldsAreRefusedWithKeyAndValue) {
  const std::map<std::string, std::string> classes = {{"gpt2", "GPT2LMHeadModel"},
                                                      {"llama", "LlamaForCausalLM"},
                                                      {"mistral", "MistralForCausalLM"},
                                                      {"qwen2", "Qwen2ForCausalLM"},
                                                      {"qwen3", "Qwen3ForCausalLM"}};
  for (const BadField& bad : kBadFields) {
    SCOPED_TRACE(std::string(bad.model_type) + " " + bad.patch);
    const auto description =
        Parse(With(Family(bad.model_type, classes.at(bad.model_type)), bad.patch));
    ASSERT_FALSE(description.ok());
    EXPECT_EQ(description.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(description.status().message());
    EXPECT_THAT(message, HasSubstr("config.json: "));
    for (const std::string& word : bad.words) EXPECT_THAT(message, HasSubstr(word));
  }
}

TEST(ModelConfig, NeutralValuesPass) {
  for (const char* patch :
       {R"({"quantization_config":null})", R"({"logits_scaling":1})",
        R"({"attention_multiplier":1.0})", R"({"pruned_heads":{}})", R"({"sliding_window":null})",
        R"({"layer_types":null})", R"({"use_sliding_window":false})", R"({"hidden_act":"swish"})",
        R"({"rope_scaling":null})", R"({"rope_scaling":{}})",
        R"({"rope_scaling":{"rope_type":"default","factor":1.0}})",
        R"({"partial_rotary_factor":1.0})", R"({"pad_token_id":-1})",
        R"({"pretraining_tp":2,"use_cache":false})"}) {
    const auto description = Parse(With(Llama(), patch));
    EXPECT_TRUE(description.ok()) << patch << ": " << description.status();
    if (description.ok()) {
      EXPECT_THAT(description->warnings, IsEmpty()) << patch;
    }
  }
  const auto qwen =
      Parse(With(Family("qwen2", "Qwen2ForCausalLM"),
                 R"({"sliding_window":32768,"max_window_layers":21,"use_sliding_window":false,
                                   "layer_types":["full_attention","full_attention","full_attention"]})"));
  EXPECT_TRUE(qwen.ok()) << qwen.status();
  EXPECT_EQ(qwen->config.sliding_window, std::nullopt);
}

TEST(ModelConfig, AnUnknownFieldGivesOneWarningThatNamesIt) {
  const auto description = Parse(
      With(Llama(),
           R"({"flux_capacity":1.21,"rope_scaling":{"type":"linear","factor":2.0,"wobble":1}})"),
      R"({"shininess":3})");
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_THAT(description->warnings,
              ElementsAre(AllOf(HasSubstr("config.json"), HasSubstr("rope_scaling.wobble")),
                          AllOf(HasSubstr("config.json"), HasSubstr("flux_capacity")),
                          AllOf(HasSubstr("generation_config.json"), HasSubstr("shininess"))));
  // Mistral and Qwen2 have no such switch; transformers would not read it either.
  const auto mistral =
      Parse(With(Family("mistral", "MistralForCausalLM"), R"({"attention_bias":true})"));
  ASSERT_TRUE(mistral.ok());
  EXPECT_THAT(mistral->warnings, ElementsAre(HasSubstr("attention_bias")));
  EXPECT_FALSE(mistral->config.qkv_bias);
}

TEST(ModelConfig, FilesThatAreNoConfig) {
  const struct {
    std::string text;
    const char* words;
  } kCases[] = {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"[]", "must hold a JSON object"},
      {"{\"a\":1,\"a\":2}", "the key \"a\" occurs twice"},
      {"{\"a\":" + std::string(50, '[') + std::string(50, ']') + "}", "deeper than 16"},
      {std::string(5 << 20, ' '), "at most"},
      {"{\"a\":\"\xc3\x28\"}", "not valid JSON"},
  };
  for (const auto& bad : kCases) {
    const auto description = ParseModelDescription(bad.text, "x/config.json", "", "");
    ASSERT_FALSE(description.ok()) << bad.words;
    EXPECT_THAT(std::string(description.status().message()),
                AllOf(HasSubstr("x/config.json"), HasSubstr(bad.words)));
  }
}

TEST(GenerationConfig, SamplingDefaults) {
  const auto description =
      Parse(Llama(),
            R"({"_from_model_config":true,"eos_token_id":[9,3,9],"bos_token_id":1,"do_sample":true,
      "temperature":0.6,"top_k":40,"top_p":0.9,"min_p":0.05,"repetition_penalty":1.1,"max_new_tokens":99,"transformers_version":"5"})");
  ASSERT_TRUE(description.ok()) << description.status();
  const GenerationConfig& generation = description->generation;
  EXPECT_THAT(generation.eos_token_ids, ElementsAre(3, 9));
  EXPECT_EQ(generation.bos_token_id, 1u);
  EXPECT_EQ(generation.do_sample, true);
  EXPECT_EQ(generation.temperature, 0.6f);
  EXPECT_EQ(generation.top_k, 40u);
  EXPECT_EQ(generation.top_p, 0.9f);
  EXPECT_EQ(generation.min_p, 0.05f);
  EXPECT_EQ(generation.repetition_penalty, 1.1f);
  EXPECT_EQ(generation.max_new_tokens, 99u);
  EXPECT_EQ(generation.min_new_tokens, std::nullopt);
  EXPECT_THAT(description->warnings, IsEmpty());
}

TEST(GenerationConfig, EosFallsBackToTheModelConfig) {
  EXPECT_THAT(Parse(With(Llama(), R"({"eos_token_id":[5,4]})"), "{}")->generation.eos_token_ids,
              ElementsAre(4, 5));
  EXPECT_THAT(Parse(With(Llama(), R"({"eos_token_id":5})"), R"({"eos_token_id":6})")
                  ->generation.eos_token_ids,
              ElementsAre(6));
  EXPECT_THAT(Parse(With(Llama(), R"({"eos_token_id":null})"))->generation.eos_token_ids,
              IsEmpty());
}

TEST(GenerationConfig, BadValuesAreRefusedAndUnappliedOnesWarned) {
  for (const char* bad :
       {R"({"eos_token_id":1000})", R"({"temperature":-1.0})", R"({"top_p":1.5})",
        R"({"top_k":-1})", R"({"do_sample":"yes"})", R"({"repetition_penalty":0})", "[]"}) {
    const auto description = Parse(Llama(), bad);
    ASSERT_FALSE(description.ok()) << bad;
    EXPECT_THAT(std::string(description.status().message()), HasSubstr("generation_config.json"));
  }
  const auto beams = Parse(Llama(), R"({"num_beams":4,"typical_p":1.0,"no_repeat_ngram_size":0})");
  ASSERT_TRUE(beams.ok()) << beams.status();
  EXPECT_THAT(beams->warnings,
              ElementsAre(AllOf(HasSubstr("num_beams is 4"), HasSubstr("does not apply"))));
}

TEST(ModelDescription, LoadsTheBuiltInShapes) {
  for (const char* shape : {"qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"}) {
    const auto description = LoadModelDescription(std::string(QUIRE_SHAPES_DIR "/") + shape);
    ASSERT_TRUE(description.ok()) << description.status();
    EXPECT_THAT(description->warnings, IsEmpty());
  }
}

TEST(ModelDescription, AFolderWithoutConfigIsNamed) {
  const TempFolder temp;
  const auto description = LoadModelDescription(temp.path());
  EXPECT_EQ(description.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(description.status().message()), HasSubstr(temp.path() + "/config.json"));
}

}  // namespace
}  // namespace quire
