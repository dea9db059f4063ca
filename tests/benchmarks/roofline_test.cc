#include "benchmarks/roofline.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

// Small enough to count by hand: 2 layers of 8 x (2 x 8 + 2 x 4) + 3 x 8 x 10 = 432 weights, a head
// of 8 x 100, and 2 x 2 x 4 = 16 numbers of KV a token.
ModelConfig Small() {
  ModelConfig config;
  config.vocab_size = 100;
  config.hidden_size = 8;
  config.intermediate_size = 10;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  return config;
}
constexpr double kLayers = 2 * 432;
constexpr double kHead = 800;
constexpr double kKv = 16;
constexpr double kAttention = 4 * 8 * 2;  // a key that a position sees

// One of the two bounds alone: the other is a million times as fast.
constexpr DeviceSpeed kReads = {1, 1e6};
constexpr DeviceSpeed kComputes = {1e6, 1};

StepPlan Plan(std::vector<SlotFill> filled, std::vector<SlotRun> runs) {
  StepPlan plan;
  plan.filled = std::move(filled);
  plan.runs = std::move(runs);
  return plan;
}

SlotFill Fill(SlotId slot, uint32_t num_cached_tokens = 0) {
  SlotFill fill;
  fill.slot = slot;
  fill.num_cached_tokens = num_cached_tokens;
  return fill;
}

TEST(Roofline, ReadsWeightsOnceAndTheKeysOfEveryRun) {
  Roofline roofline(Small(), 2, kReads);
  EXPECT_EQ(roofline.weight_bytes(), 2 * (kLayers + kHead));
  // A part of a prompt has no logits: the head is not read.
  EXPECT_DOUBLE_EQ(roofline.Step(Plan({Fill(3)}, {{3, 5, false}})), 2 * (kLayers + 5 * kKv));
  // The rest of it, and a sequence whose first tokens are cached.
  EXPECT_DOUBLE_EQ(roofline.Step(Plan({Fill(0, 16)}, {{3, 2, true}, {0, 1, true}})),
                   2 * (kLayers + kHead + (7 + 17) * kKv));
  // Decoding goes on where the runs ended; a slot that is filled anew begins anew.
  EXPECT_DOUBLE_EQ(roofline.Step(Plan({Fill(0)}, {{3, 1, true}, {0, 1, true}})),
                   2 * (kLayers + kHead + (8 + 1) * kKv));
}

TEST(Roofline, ComputesEveryPositionAndTheKeysThatItSees) {
  Roofline roofline(Small(), 2, kComputes);
  EXPECT_DOUBLE_EQ(roofline.Step(Plan({Fill(0)}, {{0, 4, false}})),
                   2 * kLayers * 4 + kAttention * (1 + 2 + 3 + 4));
  EXPECT_DOUBLE_EQ(roofline.Step(Plan({}, {{0, 2, true}})),
                   2 * kLayers * 2 + 2 * kHead + kAttention * (5 + 6));
}

TEST(Roofline, TheLongerOfBothCounts) {
  Roofline reads(Small(), 4, {1, 1e6}), both(Small(), 4, {1, 1});
  const StepPlan plan = Plan({Fill(0)}, {{0, 100, true}});
  EXPECT_GT(both.Step(plan), reads.Step(plan));
}

// What the design's figures rest on: Llama 3.1 8B reads 15.0 GB of bf16 weights a step.
TEST(Roofline, Llama8BDecodesAtTheKnownBound) {
  ModelConfig config;
  config.vocab_size = 128256;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_layers = 32;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  Roofline roofline(config, 2, {4.12e12, 758e12});
  EXPECT_NEAR(roofline.weight_bytes() / 1e9, 15.0, 0.05);
  EXPECT_NEAR(roofline.Step(Plan({Fill(0)}, {{0, 1, true}})) * 1e3, 3.64, 0.01);
  // A prompt of 1,024 is bound by products.
  EXPECT_NEAR(roofline.Step(Plan({Fill(1)}, {{1, 1024, true}})) * 1e3, 19.2, 0.3);
}

}  // namespace
}  // namespace quire
