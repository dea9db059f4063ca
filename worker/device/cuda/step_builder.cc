#include "worker/device/cuda/step_builder.h"

#include <algorithm>
#include <limits>

#include "scheduler/check.h"

namespace quire::cuda {
namespace {

// Of changes to slots in one upload, beyond which they go in several.
constexpr size_t kMaxUpdateBytes = size_t{4} << 20;

// Rows that padding to a graph's adds, at most.
constexpr size_t kMostPadding = 128;

uint32_t CeilDiv(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

bool HasPenalty(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

// Whether choosing a token needs more than the arg max of the raw logits.
bool Draws(const SamplingParams& params) {
  return !(params.temperature < std::numeric_limits<float>::min()) || HasPenalty(params) ||
         !params.logit_bias.empty() || (params.min_new_tokens > 0 && !params.eos_token_ids.empty());
}

// Bytes, at most, that a fill adds to a step's inputs.
size_t FillBytes(size_t num_blocks, size_t num_biases, size_t num_eos_tokens, size_t num_tokens) {
  return num_blocks * sizeof(TableUpdate) + sizeof(SamplingUpdate) +
         num_biases * (sizeof(uint32_t) + sizeof(float)) + num_eos_tokens * sizeof(uint32_t) +
         sizeof(CountFill) + num_tokens * sizeof(int32_t);
}

size_t FillBytes(const SlotFill& fill) {
  return FillBytes(fill.blocks.size(), fill.params->logit_bias.size(),
                   fill.params->eos_token_ids.size(), fill.tokens.size());
}

}  // namespace

void StepRecord::Clear() {
  runs.clear();
  rows.clear();
  num_rows = 0;
  needs_faults = false;
}

StepBuilder::StepBuilder(const Options& options)
    : options_(options),
      table_stride_(CeilDiv(options.context_length, options.block_size)),
      slots_(options.num_slots) {}

size_t StepBuilder::max_input_bytes() const {
  // A step that a graph replays is padded to the graph's rows.
  const size_t rows = options_.max_num_batched_tokens + kMostPadding;
  const size_t row_bytes =
      4 * sizeof(int32_t) + sizeof(LogitsRow) + sizeof(DecodeItem) + sizeof(PrefillTile);
  // A step appends at most a block a run and one for each block_size positions.
  const size_t appended = options_.num_slots + rows / options_.block_size + 1;
  const size_t one_fill =
      FillBytes(table_stride_, kMaxBiases, kMaxEosTokens, options_.context_length);
  return rows * row_bytes + options_.max_parts * sizeof(DecodeItem) +
         std::max(kMaxUpdateBytes, one_fill) + appended * sizeof(TableUpdate) +
         StepUploader::kSlackBytes;
}

absl::Status StepBuilder::Build(const StepPlan& plan, absl::FunctionRef<absl::Status()> flush,
                                StepRecord* record) {
  inputs_.Clear();
  decode_rows_.clear();
  needs_ = {};
  record->Clear();
  record->step = plan.step;
  for (const SlotId freed : plan.freed) {
    QUIRE_CHECK(freed < slots_.size() && slots_[freed].is_taken);
    slots_[freed].is_taken = false;
    slots_[freed].params.reset();
  }
  for (const SlotFill& fill : plan.filled) {
    QUIRE_CHECK(fill.params != nullptr);
    if (inputs_.UpdateBytes() + FillBytes(fill) > kMaxUpdateBytes) {
      if (absl::Status status = flush(); !status.ok()) return status;
      inputs_.Clear();
    }
    Fill(fill);
  }
  for (const BlockAppend& append : plan.appended) Append(append);
  for (const SlotRun& run : plan.runs) AddRun(run, record);
  QUIRE_CHECK(inputs_.row_tokens.size() <= options_.max_num_batched_tokens);
  record->num_rows = static_cast<uint32_t>(inputs_.row_tokens.size());
  AddDecodeItems();
  return absl::OkStatus();
}

void StepBuilder::Fill(const SlotFill& fill) {
  QUIRE_CHECK(fill.slot < slots_.size() && !slots_[fill.slot].is_taken);
  QUIRE_CHECK(fill.tokens.size() <= options_.context_length);
  QUIRE_CHECK(fill.num_prompt_tokens <= fill.tokens.size());
  QUIRE_CHECK(fill.num_cached_tokens < fill.tokens.size());
  QUIRE_CHECK(fill.blocks.size() <= table_stride_);
  Slot& slot = slots_[fill.slot];
  slot.is_taken = true;
  slot.tokens.assign(fill.tokens.begin(), fill.tokens.end());
  slot.num_tokens = static_cast<uint32_t>(fill.tokens.size());
  slot.num_prompt_tokens = fill.num_prompt_tokens;
  slot.next_position = fill.num_cached_tokens;
  slot.num_blocks = 0;
  slot.params = fill.params;
  for (const BlockId block : fill.blocks) Append({fill.slot, block});
  AddSampling(fill);
}

void StepBuilder::AddSampling(const SlotFill& fill) {
  const SamplingParams& params = *fill.params;
  QUIRE_CHECK(params.logit_bias.size() <= kMaxBiases);
  QUIRE_CHECK(params.eos_token_ids.size() <= kMaxEosTokens);
  SamplingUpdate& update = inputs_.samplings.emplace_back();
  update.slot = static_cast<int32_t>(fill.slot);
  update.first_bias = static_cast<uint32_t>(inputs_.bias_tokens.size());
  update.first_eos_token = static_cast<uint32_t>(inputs_.eos_tokens.size());
  SlotSampling& sampling = update.sampling;
  sampling.temperature = params.temperature;
  sampling.top_k = params.top_k;
  sampling.top_p = params.top_p;
  sampling.min_p = params.min_p;
  sampling.seed = params.seed;
  sampling.choice = params.choice;
  sampling.repetition_penalty = params.repetition_penalty;
  sampling.presence_penalty = params.presence_penalty;
  sampling.frequency_penalty = params.frequency_penalty;
  sampling.min_new_tokens = params.min_new_tokens;
  sampling.num_biases = static_cast<uint32_t>(params.logit_bias.size());
  sampling.num_eos_tokens = static_cast<uint32_t>(params.eos_token_ids.size());
  sampling.has_penalty = HasPenalty(params) ? 1 : 0;
  for (const auto& [token, bias] : params.logit_bias) {
    inputs_.bias_tokens.push_back(token);
    inputs_.bias_values.push_back(bias);
  }
  inputs_.eos_tokens.insert(inputs_.eos_tokens.end(), params.eos_token_ids.begin(),
                            params.eos_token_ids.end());
  if (!HasPenalty(params)) return;
  CountFill& count = inputs_.count_fills.emplace_back();
  count.slot = fill.slot;
  count.first_token = static_cast<uint32_t>(inputs_.count_tokens.size());
  count.num_tokens = static_cast<uint32_t>(fill.tokens.size());
  count.num_prompt_tokens = fill.num_prompt_tokens;
  inputs_.count_tokens.insert(inputs_.count_tokens.end(), fill.tokens.begin(), fill.tokens.end());
}

void StepBuilder::Append(const BlockAppend& append) {
  QUIRE_CHECK(append.slot < slots_.size() && slots_[append.slot].is_taken);
  QUIRE_CHECK(append.block < options_.num_blocks);
  Slot& slot = slots_[append.slot];
  QUIRE_CHECK(slot.num_blocks < table_stride_);
  inputs_.tables.push_back({static_cast<int32_t>(append.slot),
                            static_cast<int32_t>(slot.num_blocks++),
                            static_cast<int32_t>(append.block)});
}

void StepBuilder::AddRun(const SlotRun& run, StepRecord* record) {
  QUIRE_CHECK(run.slot < slots_.size() && slots_[run.slot].is_taken && run.num_tokens > 0);
  Slot& slot = slots_[run.slot];
  const uint32_t end = slot.next_position + run.num_tokens;
  QUIRE_CHECK(end <= slot.num_tokens && (!run.samples || end == slot.num_tokens));
  QUIRE_CHECK(end <= uint64_t{slot.num_blocks} * options_.block_size);

  StepRecord::Run& recorded = record->runs.emplace_back();
  recorded.slot = run.slot;
  recorded.first_row = static_cast<uint32_t>(inputs_.row_tokens.size());
  recorded.num_rows = run.num_tokens;
  recorded.first_logits = static_cast<uint32_t>(inputs_.logits.size());
  recorded.params = slot.params;
  const bool wants_prompt = slot.params->prompt_logprobs.has_value();
  for (uint32_t position = slot.next_position; position < end; ++position) {
    const bool is_known = position < slot.tokens.size();
    QUIRE_CHECK(is_known || position + 1 == slot.num_tokens);
    inputs_.row_tokens.push_back(is_known ? static_cast<int32_t>(slot.tokens[position]) : -1);
    inputs_.row_slots.push_back(static_cast<int32_t>(run.slot));
    inputs_.row_positions.push_back(static_cast<int32_t>(position));
    const bool samples = run.samples && position + 1 == end;
    if (samples || (wants_prompt && position + 1 < slot.num_prompt_tokens)) {
      AddLogitsRow(slot, run.slot, position, samples, record);
    }
  }
  recorded.num_logits = static_cast<uint32_t>(inputs_.logits.size()) - recorded.first_logits;

  if (recorded.num_logits < run.num_tokens) record->needs_faults = true;

  if (run.num_tokens == 1) {
    decode_rows_.push_back(recorded.first_row);
  } else {
    const uint32_t most = PrefillTilePositions(options_.num_heads, options_.num_kv_heads);
    for (uint32_t first = 0; first < run.num_tokens; first += most) {
      inputs_.prefill_tiles.push_back(
          {static_cast<int32_t>(recorded.first_row + first),
           static_cast<int32_t>(std::min(most, run.num_tokens - first))});
    }
  }
  slot.next_position = end;
  if (run.samples) ++slot.num_tokens;
}

void StepBuilder::AddLogitsRow(const Slot& slot, SlotId id, uint32_t position, bool samples,
                               StepRecord* record) {
  const SamplingParams& params = *slot.params;
  StepRecord::Row& row = record->rows.emplace_back();
  row.position = position;
  row.samples = samples;
  row.predicts_prompt = params.prompt_logprobs.has_value() && position + 1 < slot.num_prompt_tokens;
  // The row is the last that was added.
  inputs_.logits_rows.push_back(static_cast<int32_t>(inputs_.row_tokens.size()) - 1);
  LogitsRow& logits = inputs_.logits.emplace_back();
  logits.slot = static_cast<int32_t>(id);
  logits.position = position + 1;
  logits.num_output_tokens = slot.num_tokens - slot.num_prompt_tokens;
  logits.samples = samples ? 1 : 0;
  if (row.predicts_prompt) {
    logits.prompt_token = static_cast<int32_t>(slot.tokens[position + 1]);
    logits.num_prompt_top = static_cast<int32_t>(*params.prompt_logprobs);
    needs_.logprobs = true;
  }
  if (!samples) return;
  if (params.logprobs) {
    logits.num_top = static_cast<int32_t>(*params.logprobs);
    needs_.logprobs = true;
  }
  needs_.draws = needs_.draws || Draws(params);
}

// Cut so that all rows' items together fill the device about once: a long row beside many short
// ones is cut, too. Parts are bounded, so the longest rows get them first; beyond the bound a row
// stays whole. However it is done, the bits are the same, if attention is exact: then an item
// leaves a partial result for each of its segments. If not, it is cut at tiles and leaves one.
void StepBuilder::AddDecodeItems() {
  const uint32_t segment_size = options_.exact ? kAttentionSegment : kAttentionTile;
  const auto segments_of = [&](uint32_t row) {
    return CeilDiv(static_cast<uint32_t>(inputs_.row_positions[row]) + 1, segment_size);
  };
  uint64_t work = 0;
  for (const uint32_t row : decode_rows_) work += segments_of(row);
  work *= options_.num_kv_heads;
  const uint64_t share = (work + options_.attention_blocks - 1) / options_.attention_blocks;
  const uint32_t each = static_cast<uint32_t>(std::max<uint64_t>(1, share));
  uint64_t num_cut = 0;  // parts that there would be without the bound
  for (const uint32_t row : decode_rows_) {
    const uint32_t segments = segments_of(row);
    const uint32_t items = CeilDiv(segments, each);
    if (items > 1) num_cut += options_.exact ? segments : items;
  }
  if (num_cut > options_.max_parts) {
    std::stable_sort(decode_rows_.begin(), decode_rows_.end(),
                     [&](uint32_t a, uint32_t b) { return segments_of(a) > segments_of(b); });
  }
  uint32_t num_parts = 0;
  for (const uint32_t row : decode_rows_) {
    const uint32_t segments = segments_of(row);
    const uint32_t items = CeilDiv(segments, each);
    const uint32_t parts = options_.exact ? segments : items;
    DecodeItem item;
    item.row = static_cast<int32_t>(row);
    if (items == 1 || num_parts + parts > options_.max_parts) {
      item.num_segments = static_cast<int32_t>(segments);
      inputs_.decode_items.push_back(item);
      continue;
    }
    item.num_items = static_cast<int32_t>(items);
    item.num_parts = static_cast<int32_t>(parts);
    item.first_part = static_cast<int32_t>(num_parts);
    for (uint32_t segment = 0; segment < segments; segment += each) {
      item.first_segment = static_cast<int32_t>(segment);
      item.num_segments = static_cast<int32_t>(std::min(each, segments - segment));
      item.part = static_cast<int32_t>(options_.exact ? segment : segment / each);
      inputs_.decode_items.push_back(item);
    }
    num_parts += parts;
  }
}

}  // namespace quire::cuda
