// What the host tells the device of a step, without a device.
#include "worker/device/cuda/step_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <utility>

namespace quire::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

StepBuilder::Options SmallOptions() {
  StepBuilder::Options options;
  options.num_slots = 4;
  options.max_num_batched_tokens = 512;
  options.context_length = 4096;
  options.block_size = 16;
  options.num_blocks = 2048;
  options.num_heads = 8;
  options.num_kv_heads = 2;
  options.attention_blocks = 16;
  options.max_parts = 64;
  return options;
}

std::shared_ptr<const SamplingParams> Greedy() {
  auto params = std::make_shared<SamplingParams>();
  params->temperature = 0;
  return params;
}

SlotFill FillOf(SlotId slot, uint32_t num_tokens, uint32_t num_cached,
                std::shared_ptr<const SamplingParams> params) {
  SlotFill fill;
  fill.slot = slot;
  fill.tokens.resize(num_tokens);
  std::iota(fill.tokens.begin(), fill.tokens.end(), 100 * slot);
  fill.num_prompt_tokens = num_tokens;
  fill.num_cached_tokens = num_cached;
  fill.blocks.resize((num_tokens + 16) / 16 + 1);
  std::iota(fill.blocks.begin(), fill.blocks.end(), 300 * slot);
  fill.params = std::move(params);
  return fill;
}

class StepBuilderTest : public testing::Test {
 protected:
  explicit StepBuilderTest(const StepBuilder::Options& options = SmallOptions())
      : builder_(options) {}

  void Build(const StepPlan& plan) {
    const absl::Status status = builder_.Build(
        plan,
        [this] {
          ++num_flushes_;
          return absl::OkStatus();
        },
        &record_);
    ASSERT_TRUE(status.ok()) << status;
  }
  // A step in which each of some sequences, so many tokens long, decodes its last one.
  void BuildDecode(const std::vector<uint32_t>& lengths) {
    StepPlan fill = PlanOf({});
    std::vector<SlotRun> runs;
    for (SlotId slot = 0; slot < lengths.size(); ++slot) {
      fill.filled.push_back(FillOf(slot, lengths[slot], lengths[slot] - 1, Greedy()));
      runs.push_back({slot, 1, true});
    }
    Build(fill);
    Build(PlanOf(runs));
  }
  // One run of each slot.
  StepPlan PlanOf(std::vector<SlotRun> runs) {
    StepPlan plan;
    plan.step = ++step_;
    plan.runs = std::move(runs);
    return plan;
  }
  const StepInputs& inputs() const { return builder_.inputs(); }

  StepBuilder builder_;
  StepRecord record_;
  uint64_t step_ = 0;
  int num_flushes_ = 0;
};

TEST_F(StepBuilderTest, APromptIsRowsWithItsTokensAndOneRowOfLogits) {
  StepPlan plan = PlanOf({{1, 3, true}});
  plan.filled = {FillOf(1, 5, 2, Greedy())};
  Build(plan);
  EXPECT_THAT(inputs().row_tokens, ElementsAre(102, 103, 104));
  EXPECT_THAT(inputs().row_slots, ElementsAre(1, 1, 1));
  EXPECT_THAT(inputs().row_positions, ElementsAre(2, 3, 4));
  EXPECT_THAT(inputs().logits_rows, ElementsAre(2));
  EXPECT_EQ(inputs().logits[0].position, 5u);
  EXPECT_EQ(inputs().logits[0].num_output_tokens, 0u);
  EXPECT_THAT(inputs().decode_items, IsEmpty());
  ASSERT_EQ(inputs().prefill_tiles.size(), 1u);
  EXPECT_EQ(inputs().prefill_tiles[0].num_rows, 3);
  EXPECT_FALSE(builder_.is_decoding());
  // Two rows have no logits that would tell of their faults.
  EXPECT_TRUE(record_.needs_faults);
  EXPECT_FALSE(builder_.needs().draws);
}

TEST_F(StepBuilderTest, ATokenThatTheHostDoesNotKnowIsLeftToTheDevice) {
  StepPlan plan = PlanOf({{0, 2, true}});
  plan.filled = {FillOf(0, 2, 0, Greedy())};
  Build(plan);
  // Twice without a result in between, as two steps in flight are planned.
  for (const int32_t position : {2, 3}) {
    Build(PlanOf({{0, 1, true}}));
    EXPECT_THAT(inputs().row_tokens, ElementsAre(-1));
    EXPECT_THAT(inputs().row_positions, ElementsAre(position));
    EXPECT_EQ(inputs().logits[0].num_output_tokens, static_cast<uint32_t>(position) - 1);
    EXPECT_TRUE(builder_.is_decoding());
    EXPECT_FALSE(record_.needs_faults);
  }
}

TEST_F(StepBuilderTest, ARefilledSlotKnowsWhatItWasFilledWith) {
  StepPlan plan = PlanOf({{0, 2, true}});
  plan.filled = {FillOf(0, 2, 0, Greedy())};
  Build(plan);
  Build(PlanOf({{0, 1, true}}));
  plan = PlanOf({{0, 1, true}});
  plan.freed = {0};
  plan.filled = {FillOf(0, 4, 3, Greedy())};
  Build(plan);
  EXPECT_THAT(inputs().row_tokens, ElementsAre(3));
  EXPECT_THAT(inputs().row_positions, ElementsAre(3));
}

TEST_F(StepBuilderTest, AppendedBlocksFollowThoseOfTheFill) {
  StepPlan plan = PlanOf({});
  plan.filled = {FillOf(2, 20, 0, Greedy())};
  plan.appended = {{2, 77}};
  Build(plan);
  ASSERT_EQ(inputs().tables.size(), 4u);
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(inputs().tables[i].slot, 2);
    EXPECT_EQ(inputs().tables[i].index, i);
    EXPECT_EQ(inputs().tables[i].block, i < 3 ? 600 + i : 77);
  }
}

// Whatever the rows, the items of each cover its segments once and in order.
TEST_F(StepBuilderTest, DecodeItemsCoverEachRowsSegmentsOnce) {
  const std::vector<uint32_t> lengths = {1, 128, 129, 3000};
  BuildDecode(lengths);
  std::vector<int32_t> next(lengths.size(), 0);
  std::vector<int32_t> items(lengths.size(), 0);
  int32_t next_part = 0;
  for (const DecodeItem& item : inputs().decode_items) {
    EXPECT_EQ(item.first_segment, next[item.row]);
    next[item.row] += item.num_segments;
    ++items[item.row];
    if (item.num_items == 1) continue;
    EXPECT_EQ(item.part, item.first_segment);
    if (item.part == 0) {
      EXPECT_EQ(item.first_part, next_part);
      next_part += item.num_parts;
    }
  }
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int32_t segments = static_cast<int32_t>((lengths[row] - 1) / kAttentionSegment + 1);
    EXPECT_EQ(next[row], segments) << lengths[row];
  }
  for (const DecodeItem& item : inputs().decode_items) {
    EXPECT_EQ(item.num_items, items[item.row]);
  }
  // 28 segments and 2 KV heads are 56 pieces of work for 16 thread blocks: 4 segments an item, so
  // that the long row does not keep one thread block alone.
  EXPECT_EQ(items[3], 6);
  EXPECT_LE(next_part, 64);
}

// With fewer parts than the rows would be cut into the longest rows get them.
TEST_F(StepBuilderTest, TheLongestRowsAreCutFirst) {
  const std::vector<uint32_t> lengths = {3000, 3500, 4000};  // 24, 28 and 32 segments
  BuildDecode(lengths);
  std::vector<int32_t> items(lengths.size(), 0);
  std::vector<int32_t> next(lengths.size(), 0);
  int32_t num_parts = 0;
  for (const DecodeItem& item : inputs().decode_items) {
    ++items[item.row];
    EXPECT_EQ(item.first_segment, next[item.row]);
    next[item.row] += item.num_segments;
    if (item.num_items > 1) num_parts = std::max(num_parts, item.first_part + item.num_parts);
  }
  EXPECT_THAT(next, ElementsAre(24, 28, 32));
  EXPECT_EQ(items[0], 1);
  EXPECT_GT(items[1], 1);
  EXPECT_GT(items[2], 1);
  EXPECT_EQ(num_parts, 60);  // of 64
}

// What benchmarks compare exactness with: items of tiles, each with one part.
class InexactStepBuilderTest : public StepBuilderTest {
 protected:
  static StepBuilder::Options Options() {
    StepBuilder::Options options = SmallOptions();
    options.exact = false;
    return options;
  }
  InexactStepBuilderTest() : StepBuilderTest(Options()) {}
};

TEST_F(InexactStepBuilderTest, DecodeItemsCoverEachRowsTilesOnceWithAPartEach) {
  const std::vector<uint32_t> lengths = {1, 64, 65, 3000};
  BuildDecode(lengths);
  std::vector<int32_t> next(lengths.size(), 0);
  std::vector<int32_t> items(lengths.size(), 0);
  int32_t next_part = 0;
  for (const DecodeItem& item : inputs().decode_items) {
    EXPECT_EQ(item.first_segment, next[item.row]);
    next[item.row] += item.num_segments;
    const int32_t part = items[item.row]++;
    if (item.num_items == 1) continue;
    EXPECT_EQ(item.part, part);
    EXPECT_EQ(item.num_parts, item.num_items);
    EXPECT_EQ(item.first_part + item.part, next_part++);
  }
  for (size_t row = 0; row < lengths.size(); ++row) {
    EXPECT_EQ(next[row], static_cast<int32_t>((lengths[row] - 1) / kAttentionTile + 1));
  }
  for (const DecodeItem& item : inputs().decode_items) {
    EXPECT_EQ(item.num_items, items[item.row]);
  }
  // 51 tiles and 2 KV heads are 102 pieces of work for 16 thread blocks: 7 tiles an item.
  EXPECT_EQ(items[3], 7);
}

TEST_F(StepBuilderTest, PromptLogprobsAskForARowEach) {
  auto params = std::make_shared<SamplingParams>(*Greedy());
  params->prompt_logprobs = 3;
  params->logprobs = 2;
  StepPlan plan = PlanOf({{0, 4, true}});
  plan.filled = {FillOf(0, 4, 0, params)};
  Build(plan);
  EXPECT_THAT(inputs().logits_rows, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(inputs().logits[0].prompt_token, 1);
  EXPECT_EQ(inputs().logits[2].prompt_token, 3);
  EXPECT_EQ(inputs().logits[3].prompt_token, -1);
  EXPECT_EQ(inputs().logits[3].num_top, 2);
  EXPECT_TRUE(builder_.needs().logprobs);
  EXPECT_FALSE(record_.needs_faults);
}

TEST_F(StepBuilderTest, PenaltiesBringTheTokensToCount) {
  auto params = std::make_shared<SamplingParams>();
  params->frequency_penalty = 0.5f;
  params->logit_bias = {{3, 1.0f}, {9, -1.0f}};
  StepPlan plan = PlanOf({{3, 2, true}});
  plan.filled = {FillOf(3, 2, 0, params)};
  Build(plan);
  ASSERT_EQ(inputs().count_fills.size(), 1u);
  EXPECT_EQ(inputs().count_fills[0].num_tokens, 2u);
  EXPECT_THAT(inputs().count_tokens, ElementsAre(300, 301));
  EXPECT_THAT(inputs().bias_tokens, ElementsAre(3, 9));
  EXPECT_EQ(inputs().samplings[0].sampling.num_biases, 2u);
  EXPECT_TRUE(builder_.needs().draws);
}

TEST_F(StepBuilderTest, PaddingNamesNoSlot) {
  StepPlan plan = PlanOf({{0, 1, true}});
  plan.filled = {FillOf(0, 1, 0, Greedy())};
  Build(plan);
  builder_.inputs().Pad(4, 4);
  EXPECT_THAT(inputs().row_slots, ElementsAre(0, -1, -1, -1));
  EXPECT_THAT(inputs().logits_rows, ElementsAre(0, -1, -1, -1));
  EXPECT_EQ(inputs().logits[3].slot, -1);
  EXPECT_EQ(record_.num_rows, 1u);
}

// Many long sequences at once: their changes go in pieces, none is lost, each fits.
class ManyFillsTest : public StepBuilderTest {
 protected:
  static StepBuilder::Options Options() {
    StepBuilder::Options options = SmallOptions();
    options.num_slots = 300;
    options.context_length = 16384;
    options.num_blocks = 400000;
    return options;
  }
  ManyFillsTest() : StepBuilderTest(Options()) {}
};

TEST_F(ManyFillsTest, ChangesBeyondOneUploadGoInPieces) {
  auto params = std::make_shared<SamplingParams>();
  params->presence_penalty = 1.0f;  // so the tokens travel, too
  StepPlan plan = PlanOf({});
  for (SlotId slot = 0; slot < 300; ++slot) {
    plan.filled.push_back(FillOf(slot, 8000, 7999, params));
  }
  size_t num_tables = 0;
  size_t num_tokens = 0;
  const absl::Status status = builder_.Build(
      plan,
      [&] {
        ++num_flushes_;
        num_tables += inputs().tables.size();
        num_tokens += inputs().count_tokens.size();
        EXPECT_LE(inputs().UpdateBytes(), builder_.max_input_bytes());
        return absl::OkStatus();
      },
      &record_);
  ASSERT_TRUE(status.ok()) << status;
  num_tables += inputs().tables.size();
  num_tokens += inputs().count_tokens.size();
  EXPECT_EQ(num_tokens, 300u * 8000);
  EXPECT_EQ(num_tables, 300u * ((8000 + 16) / 16 + 1));
  EXPECT_GT(num_flushes_, 0);
}

}  // namespace
}  // namespace quire::cuda
