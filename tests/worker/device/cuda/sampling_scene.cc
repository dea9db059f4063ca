#include "tests/worker/device/cuda/sampling_scene.h"

#include <algorithm>
#include <random>
#include <utility>

#include "tests/worker/device/filter_settings.h"

namespace quire::cuda {

std::vector<uint32_t> Vocabularies(std::initializer_list<uint32_t> all) {
  std::vector<uint32_t> taken;
  for (const uint32_t vocabulary : all) {
    if (!IsSanitized() || vocabulary <= 8192) taken.push_back(vocabulary);
  }
  return taken;
}

std::vector<float> RandomLogits(uint32_t n, float deviation, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

uint32_t ArgMax(const std::vector<float>& values) {
  return static_cast<uint32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

std::vector<SlotSpec> SlotsOf(size_t count, const SamplingParams& params) {
  std::vector<SlotSpec> slots(count);
  for (SlotSpec& slot : slots) slot.params = params;
  return slots;
}

std::vector<SamplingParams> SamplingSettings() {
  std::vector<SamplingParams> settings = FilterSettings();
  settings.resize(16);
  settings[9].top_k = 50;
  settings[9].top_p = 0.9f;
  settings[10].top_k = 5000;
  settings[11].temperature = 0.2f;
  settings[11].top_p = 0.95f;
  settings[12].top_p = 0.3f;
  settings[12].temperature = 1.3f;
  settings[13].top_k = 3000;
  settings[13].top_p = 0.5f;
  settings[14].top_p = 0.7f;
  settings[14].logit_bias = {{1, -1e9f}};  // spoils bins of equal width
  settings[15].top_k = 40;
  settings[15].logit_bias = {{1, -1e9f}};
  return settings;
}

SamplingScene::SamplingScene(uint32_t vocabulary_size, std::vector<SlotSpec> slots,
                             uint32_t max_rows)
    : vocabulary_size_(vocabulary_size),
      specs_(std::move(slots)),
      logits_(size_t{max_rows} * vocabulary_size),
      rows_(max_rows),
      slots_(specs_.size()),
      bias_tokens_(specs_.size() * kMaxBiases),
      bias_values_(specs_.size() * kMaxBiases),
      eos_tokens_(specs_.size() * kMaxEosTokens),
      counts_(specs_.size() * vocabulary_size),
      last_tokens_(specs_.size()),
      results_(max_rows),
      logprobs_(max_rows),
      prompt_logprobs_(max_rows) {
  WriteParams();
  for (uint32_t slot = 0; slot < specs_.size(); ++slot) Refill(slot);
}

void SamplingScene::WriteParams() {
  std::vector<SlotSampling> slots;
  std::vector<uint32_t> bias_tokens(specs_.size() * kMaxBiases, 0xffffffff);
  std::vector<float> bias_values(specs_.size() * kMaxBiases);
  std::vector<uint32_t> eos_tokens(specs_.size() * kMaxEosTokens, 0xffffffff);
  for (size_t i = 0; i < specs_.size(); ++i) {
    const SamplingParams& params = specs_[i].params;
    SlotSampling& slot = slots.emplace_back();
    slot.temperature = params.temperature;
    slot.top_k = params.top_k;
    slot.top_p = params.top_p;
    slot.min_p = params.min_p;
    slot.seed = params.seed;
    slot.choice = params.choice;
    slot.repetition_penalty = params.repetition_penalty;
    slot.presence_penalty = params.presence_penalty;
    slot.frequency_penalty = params.frequency_penalty;
    slot.min_new_tokens = params.min_new_tokens;
    slot.has_penalty = params.repetition_penalty != 1 || params.presence_penalty != 0 ||
                       params.frequency_penalty != 0;
    for (const auto& [token, bias] : params.logit_bias) {
      bias_tokens[i * kMaxBiases + slot.num_biases] = token;
      bias_values[i * kMaxBiases + slot.num_biases++] = bias;
    }
    for (const TokenId token : params.eos_token_ids) {
      eos_tokens[i * kMaxEosTokens + slot.num_eos_tokens++] = token;
    }
  }
  slots_.Write(slots);
  bias_tokens_.Write(bias_tokens);
  bias_values_.Write(bias_values);
  eos_tokens_.Write(eos_tokens);
}

SamplingScene::Row SamplingScene::NextOf(uint32_t slot, const std::vector<float>& logits) const {
  const SlotSpec& spec = specs_[slot];
  Row row;
  row.logits = &logits;
  row.row.slot = static_cast<int32_t>(slot);
  row.row.position = static_cast<uint32_t>(spec.prompt.size() + spec.output.size());
  row.row.num_output_tokens = static_cast<uint32_t>(spec.output.size());
  row.row.samples = 1;
  if (spec.params.logprobs) row.row.num_top = static_cast<int32_t>(*spec.params.logprobs);
  return row;
}

void SamplingScene::Refill(uint32_t slot) {
  const SlotSpec& spec = specs_[slot];
  std::vector<int32_t> tokens(spec.prompt.begin(), spec.prompt.end());
  tokens.insert(tokens.end(), spec.output.begin(), spec.output.end());
  const DeviceArray<int32_t> device_tokens(tokens);
  Expect(FillCounts(device_tokens.data(), static_cast<uint32_t>(tokens.size()),
                    static_cast<uint32_t>(spec.prompt.size()),
                    counts_.data() + size_t{slot} * vocabulary_size_, vocabulary_size_, nullptr));
  Expect(cudaMemset(last_tokens_.data() + slot, 0xff, sizeof(int32_t)));
  Expect(cudaDeviceSynchronize());
}

void SamplingScene::SetRows(const std::vector<Row>& rows) {
  num_rows_ = static_cast<uint32_t>(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].logits == nullptr) continue;
    Expect(cudaMemcpy(logits_.data() + i * vocabulary_size_, rows[i].logits->data(),
                      vocabulary_size_ * sizeof(float), cudaMemcpyHostToDevice));
  }
  std::vector<LogitsRow> described(rows_.size());
  std::transform(rows.begin(), rows.end(), described.begin(),
                 [](const Row& row) { return row.row; });
  rows_.Write(described);
  for (const auto& [data, bytes] :
       {std::pair<void*, size_t>{results_.data(), results_.size() * sizeof(RowResult)},
        {logprobs_.data(), logprobs_.size() * sizeof(RowLogprobs)},
        {prompt_logprobs_.data(), prompt_logprobs_.size() * sizeof(RowLogprobs)}}) {
    Expect(cudaMemset(data, 0xff, bytes));
  }
  Expect(cudaDeviceSynchronize());
}

SamplingArgs SamplingScene::Args() const {
  SamplingArgs args;
  args.num_rows = num_rows_;
  args.vocabulary_size = vocabulary_size_;
  args.logits = logits_.data();
  args.rows = rows_.data();
  args.slots = slots_.data();
  args.bias_tokens = bias_tokens_.data();
  args.bias_values = bias_values_.data();
  args.eos_tokens = eos_tokens_.data();
  args.counts = counts_.data();
  args.last_tokens = last_tokens_.data();
  args.results = results_.data();
  args.logprobs = logprobs_.data();
  args.prompt_logprobs = prompt_logprobs_.data();
  return args;
}

SamplingScene::Outcome SamplingScene::Read() const {
  Outcome outcome{results_.Read(), logprobs_.Read(), prompt_logprobs_.Read()};
  outcome.results.resize(num_rows_);
  outcome.logprobs.resize(num_rows_);
  outcome.prompt_logprobs.resize(num_rows_);
  return outcome;
}

SamplingScene::Outcome SamplingScene::Run(const std::vector<Row>& rows, SamplingNeeds needs) {
  SetRows(rows);
  Expect(Sample(Args(), needs, nullptr));
  return Read();
}

std::vector<uint32_t> SamplingScene::Counts(uint32_t slot) const {
  const std::vector<uint32_t> all = counts_.Read();
  const auto begin = all.begin() + static_cast<ptrdiff_t>(size_t{slot} * vocabulary_size_);
  return {begin, begin + vocabulary_size_};
}

}  // namespace quire::cuda
