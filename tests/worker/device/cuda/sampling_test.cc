#include "worker/device/cuda/kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string_view>

#include "scheduler/batch/step_plan.h"
#include "tests/worker/device/cuda/sampling_scene.h"

namespace quire::cuda {
namespace {

constexpr SamplingNeeds kGreedy = {};
constexpr SamplingNeeds kDraws = {.draws = true};
constexpr SamplingNeeds kAll = {.draws = true, .logprobs = true};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::initializer_list<uint32_t> kVocabularies = {7, 8192, 32000, 50257, 128256, 151936};

class SamplingTest : public GpuTest {};

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

TEST_F(SamplingTest, GreedyFindsTheLargestLogit) {
  for (const uint32_t vocabulary : Vocabularies(kVocabularies)) {
    for (const uint32_t num_rows : {1u, 5u, 33u}) {
      SCOPED_TRACE(testing::Message() << vocabulary << " tokens, " << num_rows << " rows");
      SamplingScene scene(vocabulary, SlotsOf(num_rows + 1, Greedy()), num_rows);
      std::vector<std::vector<float>> logits;
      for (uint32_t r = 0; r < num_rows; ++r) {
        logits.push_back(RandomLogits(vocabulary, 3.0f, vocabulary + r));
        // Every third row has its largest value at random places, among them the ends.
        if (r % 3 == 1) logits[r][vocabulary - 1] = logits[r][r * 977 % vocabulary] = 50;
        if (r % 3 == 2) logits[r][0] = logits[r][vocabulary / 2] = 50;
      }
      std::vector<SamplingScene::Row> rows;
      for (uint32_t r = 0; r < num_rows; ++r) rows.push_back(scene.NextOf(r, logits[r]));
      if (num_rows > 3) rows[3].row.slot = -1;    // padding
      if (num_rows > 4) rows[4].row.samples = 0;  // a prompt's row
      for (const SamplingNeeds needs : {kGreedy, kDraws, kAll}) {
        for (uint32_t r = 0; r < num_rows; ++r) scene.Refill(r);
        const SamplingScene::Outcome outcome = scene.Run(rows, needs);
        const std::vector<int32_t> last = scene.LastTokens();
        for (uint32_t r = 0; r < num_rows; ++r) {
          SCOPED_TRACE(r);
          if (r == 3) {
            EXPECT_EQ(outcome.results[r].fault, 0xffffffffu);
            EXPECT_EQ(last[r], -1);
          } else if (r == 4) {
            EXPECT_EQ(outcome.results[r].fault, 0u);
            EXPECT_EQ(last[r], -1);
          } else {
            EXPECT_EQ(outcome.results[r].fault, 0u);
            EXPECT_EQ(outcome.results[r].token, ArgMax(logits[r]));
            EXPECT_EQ(last[r], static_cast<int32_t>(ArgMax(logits[r])));
          }
        }
      }
    }
  }
}

TEST_F(SamplingTest, TiesGoToTheLowerId) {
  for (const uint32_t vocabulary : Vocabularies({7, 50257, 128256})) {
    SamplingScene scene(vocabulary, SlotsOf(1, Greedy()), 1);
    for (const float value : {0.0f, -1.0f, 2.0f, -FLT_MAX, FLT_MAX, 1e-42f}) {
      std::vector<float> logits(vocabulary, value);
      for (const SamplingNeeds needs : {kGreedy, kDraws}) {
        EXPECT_EQ(scene.Run({scene.NextOf(0, logits)}, needs).results[0].token, 0u) << value;
      }
    }
    // −0 equals 0.
    std::vector<float> logits(vocabulary, -1.0f);
    logits[2] = -0.0f;
    logits[vocabulary - 1] = 0.0f;
    for (const SamplingNeeds needs : {kGreedy, kDraws}) {
      EXPECT_EQ(scene.Run({scene.NextOf(0, logits)}, needs).results[0].token, 2u);
    }
  }
}

TEST_F(SamplingTest, ARowThatIsNotFiniteChangesNothing) {
  for (const uint32_t vocabulary : Vocabularies({7, 8192, 50257, 128256})) {
    SamplingParams params = Greedy();
    params.presence_penalty = 1;
    params.logprobs = 3;
    const std::vector<uint32_t> places = {0, 3, vocabulary / 2, vocabulary - 1};
    const std::vector<float> bads = {kInfinity, -kInfinity, std::nanf("")};
    const uint32_t num_rows = static_cast<uint32_t>(places.size() * bads.size());
    SamplingScene scene(vocabulary, SlotsOf(num_rows + 1, params), num_rows + 1);
    std::vector<std::vector<float>> logits;
    for (const uint32_t place : places) {
      for (const float bad : bads) {
        logits.push_back(RandomLogits(vocabulary, 1.0f, place));
        logits.back()[place] = bad;
      }
    }
    logits.push_back(RandomLogits(vocabulary, 1.0f, 1));
    std::vector<SamplingScene::Row> rows;
    for (uint32_t r = 0; r < logits.size(); ++r) rows.push_back(scene.NextOf(r, logits[r]));
    const std::vector<uint32_t> counts = scene.Counts(0);
    for (const SamplingNeeds needs : {kGreedy, kDraws, kAll}) {
      const SamplingScene::Outcome outcome = scene.Run(rows, needs);
      const std::vector<int32_t> last = scene.LastTokens();
      for (uint32_t r = 0; r < num_rows; ++r) {
        EXPECT_EQ(outcome.results[r].fault, static_cast<uint32_t>(NumericFault::kLogits)) << r;
        EXPECT_EQ(last[r], -1) << r;
        EXPECT_EQ(scene.Counts(r), counts) << r;
      }
      EXPECT_EQ(outcome.results[num_rows].fault, 0u);
      EXPECT_NE(last[num_rows], -1);
    }
  }
}

// Greedy decoding under penalties and biases against the same fp32 operations on the host, token
// after token: the device's counts grow with what it samples.
TEST_F(SamplingTest, PenaltiesFollowTheTokens) {
  for (const uint32_t vocabulary : Vocabularies({7, 8192, 50257})) {
    SCOPED_TRACE(vocabulary);
    std::vector<SlotSpec> slots(4);
    for (SlotSpec& slot : slots) slot.params = Greedy();
    slots[0].params.repetition_penalty = 1.7f;
    slots[1].params.frequency_penalty = 0.4f;
    slots[1].params.presence_penalty = 0.3f;
    slots[1].params.logit_bias = {{0, 5.0f}, {vocabulary - 1, 4.5f}};
    slots[2].params.repetition_penalty = 0.8f;
    slots[2].params.frequency_penalty = -0.2f;
    slots[2].params.min_new_tokens = 12;
    slots[2].params.eos_token_ids = {2, vocabulary - 1};
    slots[3].params.presence_penalty = 2.0f;
    slots[3].params.logit_bias = {{1, -100.0f}, {3, 100.0f}};
    for (SlotSpec& slot : slots) slot.output = {4, 4};
    SamplingScene scene(vocabulary, slots, 4);
    std::vector<std::vector<uint32_t>> counts(4, std::vector<uint32_t>(vocabulary));
    for (uint32_t s = 0; s < 4; ++s) {
      for (const TokenId token : slots[s].prompt) counts[s][token] |= 1u << 31;
      for (const TokenId token : slots[s].output) ++counts[s][token];
      ASSERT_EQ(scene.Counts(s), counts[s]);
    }
    for (uint32_t step = 0; step < 20; ++step) {
      std::vector<std::vector<float>> logits;
      std::vector<SamplingScene::Row> rows;
      // The same few tokens lead at every step.
      for (uint32_t s = 0; s < 4; ++s) {
        logits.push_back(RandomLogits(vocabulary, 0.5f, step * 4 + s));
        for (uint32_t i = 0; i < 5; ++i) logits.back()[i * 1237 % vocabulary] += 6;
      }
      for (uint32_t s = 0; s < 4; ++s) rows.push_back(scene.NextOf(s, logits[s]));
      const SamplingScene::Outcome outcome = scene.Run(rows, kDraws);
      for (uint32_t s = 0; s < 4; ++s) {
        const SamplingParams& params = slots[s].params;
        std::vector<float> expected = logits[s];
        for (const auto& [token, bias] : params.logit_bias) expected[token] += bias;
        for (uint32_t i = 0; i < vocabulary; ++i) {
          if (counts[s][i] == 0) continue;
          float& x = expected[i];
          x = x < 0 ? x * params.repetition_penalty : x / params.repetition_penalty;
          const uint32_t times = counts[s][i] & 0x7fffffff;
          if (times == 0) continue;
          const float frequent = params.frequency_penalty * static_cast<float>(times);
          x -= frequent;
          x -= params.presence_penalty;
        }
        if (scene.slot(s).output.size() < params.min_new_tokens) {
          for (const TokenId token : params.eos_token_ids) expected[token] = -kInfinity;
        }
        const uint32_t token = ArgMax(expected);
        ASSERT_EQ(outcome.results[s].token, token) << "slot " << s << ", step " << step;
        ++counts[s][token];
        scene.slot(s).output.push_back(token);
      }
    }
    for (uint32_t s = 0; s < 4; ++s) EXPECT_EQ(scene.Counts(s), counts[s]) << s;
    // From the tokens alone the same counts come again, whatever was there.
    scene.slot(0).output.resize(3);
    scene.Refill(0);
    std::vector<uint32_t> fresh(vocabulary);
    for (const TokenId token : scene.slot(0).prompt) fresh[token] |= 1u << 31;
    for (const TokenId token : scene.slot(0).output) ++fresh[token];
    EXPECT_EQ(scene.Counts(0), fresh);
  }
}

TEST_F(SamplingTest, LogprobsAreOfTheRawLogits) {
  for (const uint32_t vocabulary : Vocabularies(kVocabularies)) {
    for (const float deviation : {0.001f, 2.0f, 8.0f}) {
      SCOPED_TRACE(testing::Message() << vocabulary << " tokens, deviation " << deviation);
      std::vector<float> logits = RandomLogits(vocabulary, deviation, 11);
      logits[vocabulary - 1] = logits[vocabulary / 3] = logits[ArgMax(logits)];
      std::vector<SlotSpec> slots(5);
      for (const auto& [s, num_top] : {std::pair{0u, 20u}, {1u, 5u}, {2u, 0u}, {3u, 1u}}) {
        slots[s].params.logprobs = num_top;
      }
      slots[0].params.temperature = 0.5f;
      slots[0].params.top_k = 3;
      slots[0].params.repetition_penalty = 1.8f;
      slots[1].params.logit_bias = {{vocabulary / 3, -50.0f}};
      slots[3].params.temperature = 0;
      SamplingScene scene(vocabulary, slots, 5);
      std::vector<SamplingScene::Row> rows;
      for (uint32_t s = 0; s < 5; ++s) rows.push_back(scene.NextOf(s, logits));
      rows[1].row.prompt_token = 4;
      rows[1].row.num_prompt_top = 17;
      rows[4].row.samples = 0;
      rows[4].row.prompt_token = static_cast<int32_t>(vocabulary - 1);
      rows[4].row.num_prompt_top = 20;
      const SamplingScene::Outcome outcome = scene.Run(rows, kAll);

      const double largest = logits[ArgMax(logits)];
      double sum = 0;
      for (const float logit : logits) sum += std::exp(logit - largest);
      const double normalizer = std::log(sum) + largest;
      const double tolerance = 2e-6 * std::max(1.0, std::abs(normalizer));
      std::vector<TokenId> order(vocabulary);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
      const auto check = [&](const RowLogprobs& got, TokenId token, uint32_t num_top) {
        EXPECT_NEAR(got.logprob, logits[token] - normalizer, tolerance);
        for (uint32_t i = 0; i < kMaxTop; ++i) {
          if (i < std::min(num_top, vocabulary)) {
            EXPECT_EQ(got.top_tokens[i], order[i]) << i;
            EXPECT_NEAR(got.top_logprobs[i], logits[order[i]] - normalizer, tolerance) << i;
          } else {
            EXPECT_EQ(got.top_tokens[i], 0xffffffffu) << i;  // not written
          }
        }
      };
      for (const uint32_t s : {0u, 1u, 2u, 3u}) {
        SCOPED_TRACE(s);
        check(outcome.logprobs[s], outcome.results[s].token, *slots[s].params.logprobs);
      }
      check(outcome.prompt_logprobs[1], 4, 17);
      check(outcome.prompt_logprobs[4], vocabulary - 1, 20);
      EXPECT_TRUE(std::isnan(outcome.logprobs[4].logprob));         // not written
      EXPECT_TRUE(std::isnan(outcome.prompt_logprobs[0].logprob));  // not written
    }
  }
}

// Rows of all kinds, to be run in any company.
struct Company {
  SamplingScene scene;
  std::vector<std::vector<float>> logits;
  std::vector<SamplingScene::Row> rows;

  explicit Company(uint32_t vocabulary) : scene(vocabulary, Specs(), kRows) {
    for (uint32_t s = 0; s < kRows; ++s) {
      logits.push_back(RandomLogits(vocabulary, s % 5 == 0 ? 0.05f : 2.5f, s));
    }
    for (uint32_t s = 0; s < kRows; ++s) {
      rows.push_back(scene.NextOf(s, logits[s]));
      if (s % 4 == 1) {
        rows[s].row.prompt_token = static_cast<int32_t>(s);
        rows[s].row.num_prompt_top = 7;
      }
    }
  }
  static constexpr uint32_t kRows = 34;
  static std::vector<SlotSpec> Specs() {
    std::vector<SlotSpec> specs(kRows);
    for (uint32_t s = 0; s < kRows; ++s) {
      specs[s].params = s % 17 == 16 ? Greedy() : SamplingSettings()[s % 17];
      specs[s].params.seed = s * 77;
      specs[s].output = {4, s};
      if (s % 3 == 0) specs[s].params.logprobs = s % 21;
    }
    return specs;
  }
  SamplingScene::Outcome Run(const std::vector<SamplingScene::Row>& some) {
    for (uint32_t s = 0; s < kRows; ++s) scene.Refill(s);
    return scene.Run(some, kAll);
  }
};

template <typename T>
bool SameBytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}
void ExpectSameRow(const SamplingScene::Outcome& a, size_t i, const SamplingScene::Outcome& b,
                   size_t j) {
  EXPECT_TRUE(SameBytes(a.results[i], b.results[j]))
      << a.results[i].token << " and " << b.results[j].token;
  EXPECT_TRUE(SameBytes(a.logprobs[i], b.logprobs[j]));
  EXPECT_TRUE(SameBytes(a.prompt_logprobs[i], b.prompt_logprobs[j]));
}

TEST_F(SamplingTest, ARowIsTheSameInAnyCompany) {
  for (const uint32_t vocabulary : Vocabularies({8192, 50257, 128256})) {
    SCOPED_TRACE(vocabulary);
    Company company(vocabulary);
    const SamplingScene::Outcome together = company.Run(company.rows);
    for (uint32_t s = 0; s < Company::kRows; ++s) {
      SCOPED_TRACE(s);
      ExpectSameRow(company.Run({company.rows[s]}), 0, together, s);
    }
    std::vector<uint32_t> order(Company::kRows);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(vocabulary);
    for (int i = 0; i < 5; ++i) {
      std::shuffle(order.begin(), order.end(), random);
      std::vector<SamplingScene::Row> rows;
      for (uint32_t r = 0; r < 9 + 5 * static_cast<uint32_t>(i); ++r) {
        rows.push_back(company.rows[order[r]]);
      }
      const SamplingScene::Outcome some = company.Run(rows);
      for (uint32_t r = 0; r < rows.size(); ++r) {
        SCOPED_TRACE(order[r]);
        ExpectSameRow(some, r, together, order[r]);
      }
    }
  }
}

TEST_F(SamplingTest, OneCapturedLaunchServesAnyRows) {
  const Stream stream = Expect(Stream::Create());
  Company company(32000);
  const SamplingScene::Outcome direct = company.Run(company.rows);
  for (const SamplingNeeds needs : {kAll, kDraws, kGreedy}) {
    company.scene.SetRows(company.rows);
    const Graph graph = Expect(Graph::Capture(stream.get(), "sampling", [&] {
      const SamplingArgs args = company.scene.Args();
      const cudaError_t error = Sample(args, needs, stream.get());
      return error != cudaSuccess ? error : Sample(args, needs, stream.get());
    }));
    for (uint32_t begin = 0; begin + 3 < Company::kRows; begin += 11) {
      for (uint32_t s = 0; s < Company::kRows; ++s) company.scene.Refill(s);
      // As many rows as were captured, most of them padding. Rows with penalties would be counted
      // twice by the two launches.
      std::vector<SamplingScene::Row> rows(Company::kRows);
      for (SamplingScene::Row& row : rows) row.row.slot = -1;
      std::vector<uint32_t> shown;
      for (uint32_t r = begin; r < begin + 11 && r < Company::kRows; ++r) {
        const SamplingParams& params = company.scene.slot(r).params;
        if (params.repetition_penalty != 1 || params.presence_penalty != 0) continue;
        if (needs.draws || params.temperature == 0) shown.push_back(r);
      }
      for (const uint32_t r : shown) rows[r] = company.rows[r];
      company.scene.SetRows(rows);
      Expect(graph.Launch(stream.get()));
      Expect(stream.Synchronize("sampling"));
      const SamplingScene::Outcome outcome = company.scene.Read();
      for (const uint32_t r : shown) {
        SCOPED_TRACE(r);
        if (needs.logprobs) ExpectSameRow(outcome, r, direct, r);
        EXPECT_TRUE(SameBytes(outcome.results[r], direct.results[r]));
      }
      for (uint32_t r = 0; r < Company::kRows; ++r) {
        if (rows[r].row.slot >= 0) continue;
        EXPECT_EQ(outcome.results[r].fault, 0xffffffffu) << r;
      }
    }
  }
}

TEST_F(SamplingTest, RefusesAVocabularyThatDoesNotFit) {
  SamplingArgs args;
  args.num_rows = 1;
  args.vocabulary_size = kMaxVocabulary + 1;
  EXPECT_EQ(Sample(args, kDraws, nullptr), cudaErrorInvalidValue);
  // The largest one does.
  std::vector<SlotSpec> slots(2);
  slots[0].params.top_p = 0.9f;
  slots[1].params = Greedy();
  SamplingScene scene(kMaxVocabulary, slots, 2);
  std::vector<float> logits = RandomLogits(kMaxVocabulary, 1.0f, 1);
  logits[kMaxVocabulary - 1] = 60;
  for (const RowResult& result :
       scene.Run({scene.NextOf(0, logits), scene.NextOf(1, logits)}, kDraws).results) {
    EXPECT_EQ(result.token, kMaxVocabulary - 1);
  }
}

}  // namespace
}  // namespace quire::cuda

// With --time, times the kernels after the tests.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (argc > 1 && std::string_view(argv[1]) == "--time") quire::cuda::PrintSamplingTimes();
  return result;
}
