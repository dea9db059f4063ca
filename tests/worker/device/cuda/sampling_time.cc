#include <algorithm>
#include <cstdio>
#include <vector>

#include "tests/worker/device/cuda/sampling_scene.h"

namespace quire::cuda {
namespace {

struct Timing {
  const char* name;
  SamplingParams params;
  SamplingNeeds needs;
  uint32_t num_rows;
  uint32_t vocabulary_size;
  float deviation;
};

// Microseconds a launch takes among others in a graph: the median of 20 replays.
float Microseconds(const Timing& timing) {
  constexpr int kLaunches = 10;
  std::vector<SlotSpec> slots(timing.num_rows);
  for (uint32_t s = 0; s < timing.num_rows; ++s) {
    slots[s].params = timing.params;
    slots[s].params.seed = s;
  }
  SamplingScene scene(timing.vocabulary_size, slots, timing.num_rows);
  const std::vector<float> logits = RandomLogits(timing.vocabulary_size, timing.deviation, 1);
  std::vector<SamplingScene::Row> rows;
  for (uint32_t s = 0; s < timing.num_rows; ++s) rows.push_back(scene.NextOf(s, logits));
  scene.SetRows(rows);
  const Stream stream = Expect(Stream::Create());
  const Graph graph = Expect(Graph::Capture(stream.get(), "sampling", [&] {
    for (int i = 1; i < kLaunches; ++i) {
      const cudaError_t error = Sample(scene.Args(), timing.needs, stream.get());
      if (error != cudaSuccess) return error;
    }
    return Sample(scene.Args(), timing.needs, stream.get());
  }));
  const Event begin = Expect(Event::CreateTimed());
  const Event end = Expect(Event::CreateTimed());
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    Expect(cudaEventRecord(begin.get(), stream.get()));
    Expect(graph.Launch(stream.get()));
    Expect(cudaEventRecord(end.get(), stream.get()));
    Expect(stream.Synchronize("sampling"));
    float milliseconds = 0;
    Expect(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (i >= 3) times.push_back(milliseconds * 1000 / kLaunches);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

void PrintSamplingTimes() {
  SamplingParams greedy;
  greedy.temperature = 0;
  SamplingParams draws;
  draws.temperature = 0.8f;
  SamplingParams top_k = draws;
  top_k.top_k = 50;
  SamplingParams top_p = draws;
  top_p.top_p = 0.9f;
  SamplingParams both = top_k;
  both.top_p = 0.9f;
  SamplingParams penalties = draws;
  penalties.repetition_penalty = 1.1f;
  SamplingParams logprobs = greedy;
  logprobs.logprobs = 20;
  SamplingParams everything = both;
  everything.repetition_penalty = 1.1f;
  everything.min_p = 0.01f;
  everything.logprobs = 20;
  constexpr SamplingNeeds kDraws = {.draws = true};
  constexpr SamplingNeeds kAll = {.draws = true, .logprobs = true};

  std::printf("%-40s %6s %10s %10s %8s\n", "us a launch", "rows", "vocabulary", "deviation", "us");
  for (const uint32_t vocabulary : {128256u, 151936u, 50257u}) {
    for (const uint32_t num_rows : {1u, 8u, 32u, 256u}) {
      const Timing timings[] = {
          {"greedy", greedy, {}, num_rows, vocabulary, 2.0f},
          {"greedy, by the kernel for all", greedy, kDraws, num_rows, vocabulary, 2.0f},
          {"temperature", draws, kDraws, num_rows, vocabulary, 2.0f},
          {"temperature, flat", draws, kDraws, num_rows, vocabulary, 0.3f},
          {"top_k 50", top_k, kDraws, num_rows, vocabulary, 2.0f},
          {"top_p 0.9", top_p, kDraws, num_rows, vocabulary, 2.0f},
          {"top_p 0.9, flat", top_p, kDraws, num_rows, vocabulary, 0.3f},
          {"top_k 50, top_p 0.9", both, kDraws, num_rows, vocabulary, 2.0f},
          {"repetition penalty", penalties, kDraws, num_rows, vocabulary, 2.0f},
          {"greedy, 20 log-probabilities", logprobs, kAll, num_rows, vocabulary, 2.0f},
          {"all of it", everything, kAll, num_rows, vocabulary, 2.0f},
      };
      for (const Timing& timing : timings) {
        if (vocabulary != 128256 && num_rows != 1 && num_rows != 256) continue;
        std::printf("%-40s %6u %10u %10.1f %8.1f\n", timing.name, num_rows, vocabulary,
                    static_cast<double>(timing.deviation),
                    static_cast<double>(Microseconds(timing)));
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace quire::cuda
