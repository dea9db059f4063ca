#include "scheduler/batch/step_plan.h"
#include "worker/device/cuda/kernels/sampling.h"

#include <cuda_runtime.h>

#include <cfloat>

#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/philox.cuh"
#include "worker/device/cuda/kernels/row_cluster.cuh"
#include "worker/device/cuda/kernels/row_slice.cuh"
#include "worker/device/cuda/kernels/sampling_math.cuh"
#include "worker/device/cuda/kernels/selection.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kInPrompt = 1u << 31;  // of a count

// What a block keeps in shared memory; the values of its slice follow.
struct alignas(float4) BlockMemory {
  ClusterExchange exchange;
  SelectionMemory selection;
};

constexpr size_t SharedBytes(uint32_t vocabulary_size) {
  return sizeof(BlockMemory) + size_t{SliceCapacity(vocabulary_size)} * sizeof(float);
}
static_assert(SharedBytes(kMaxVocabulary) <= 227 * 1024, "what a block may have");
static_assert(kMaxVocabulary < 1u << 19, "what kFixedPoint allows");

__device__ float Clamp(float logit) { return fminf(fmaxf(logit, -FLT_MAX), FLT_MAX); }

// What the model noted for the row, else `otherwise`.
__device__ uint32_t FaultOf(const SamplingArgs& args, uint32_t index, NumericFault otherwise) {
  const uint32_t noted = args.faults == nullptr ? 0 : args.faults[args.logits_rows[index]];
  return noted != 0 ? noted : static_cast<uint32_t>(otherwise);
}

// For one thread of a row whose logits are not finite.
__device__ void PutFault(const SamplingArgs& args, uint32_t index) {
  args.results[index] = {.token = 0, .fault = FaultOf(args, index, NumericFault::kLogits)};
}

// Writes what a row brings. For one thread of the row.
__device__ void PutToken(const SamplingArgs& args, uint32_t index, const LogitsRow& row,
                         uint32_t token) {
  args.results[index] = {.token = token, .fault = FaultOf(args, index, NumericFault::kNone)};
  if (row.samples == 0) return;
  args.last_tokens[row.slot] = static_cast<int32_t>(token);
  if (args.slots[row.slot].has_penalty != 0) {
    ++args.counts[size_t{args.vocabulary_size} * row.slot + token];
  }
}

// The greedy rows without extras.
__global__ void __cluster_dims__(kClusterBlocks, 1, 1) __launch_bounds__(kClusterThreads)
    GreedyRows(const SamplingArgs args) {
  __shared__ ClusterExchange exchange;
  WaitForPrimary();
  LetSecondaryStart();
  const uint32_t index = blockIdx.y;
  const LogitsRow row = args.rows[index];
  if (row.slot < 0) return;
  RowCluster cluster(&exchange);
  const Slice slice(args.vocabulary_size, cluster.rank());
  const float* const logits = args.logits + size_t{args.vocabulary_size} * index + slice.first;
  const uint64_t best =
      cluster.Reduce(ScanLogits(logits, slice, [](uint32_t, const float*) {}), MaxOf());
  if (cluster.rank() == 0 && threadIdx.x == 0) {
    if (best == kNotFinite) {
      PutFault(args, index);
    } else {
      PutToken(args, index, row, Best::Unpack(best).id);
    }
  }
  cluster.Sync();
}

// A row with all that it may ask for; a thread's view of it. The block's slice of the row stays in
// shared memory, where it is logits, then adjusted logits, then scores.
class RowSampler {
 public:
  __device__ RowSampler(const SamplingArgs& args, uint32_t index, BlockMemory* memory)
      : args_(args),
        index_(index),
        row_(args.rows[index]),
        slot_(args.slots[row_.slot]),
        logits_(args.logits + size_t{args.vocabulary_size} * index),
        values_(reinterpret_cast<float4*>(memory + 1)),
        selection_(RowCluster(&memory->exchange), &memory->selection, values_,
                   args.vocabulary_size) {}

  __device__ void Run() {
    const uint64_t raw =
        cluster().Reduce(ScanLogits(logits_ + slice().first, slice(),
                                    [this](uint32_t q, const float* quad) {
                                      values_[q] = make_float4(quad[0], quad[1], quad[2], quad[3]);
                                    }),
                         MaxOf());
    if (raw == kNotFinite) {
      if (IsFirstThread()) PutFault(args_, index_);
    } else {
      const Best best = Best::Unpack(raw);
      const float normalizer = AsksForLogprobs() ? PutTop(best.value) : 0;
      const uint32_t token = row_.samples != 0 ? Token(best) : 0;
      if (IsFirstThread()) {
        PutToken(args_, index_, row_, token);
        if (AsksForToken()) args_.logprobs[index_].logprob = Sub(logits_[token], normalizer);
      }
    }
    cluster().Sync();
  }

 private:
  __device__ bool IsFirstThread() { return cluster().rank() == 0 && threadIdx.x == 0; }
  __device__ bool AsksForToken() const { return row_.samples != 0 && row_.num_top >= 0; }
  __device__ bool AsksForPrompt() const {
    return row_.prompt_token >= 0 && row_.num_prompt_top >= 0;
  }
  __device__ bool AsksForLogprobs() const { return AsksForToken() || AsksForPrompt(); }

  __device__ RowCluster& cluster() { return selection_.cluster(); }
  __device__ const Slice& slice() const { return selection_.slice(); }

  // The block's place for a token's value, or null if that is another block's.
  __device__ float* PlaceOf(uint32_t token) {
    const uint32_t offset = token - slice().first;
    return offset < slice().size ? reinterpret_cast<float*>(values_) + offset : nullptr;
  }

  __device__ float LowestFinite() {
    uint64_t greatest = 0;
    selection_.ForEach([&](float, uint64_t key) {
      if (key <= LastFiniteKey()) greatest = max(greatest, key);
    });
    return ValueOf(cluster().Reduce(greatest, MaxOf()));
  }

  // Writes log-probabilities of the raw logits, but for the sampled token's own. Returns what they
  // lack from the logits: log(sum of e^logit).
  __device__ float PutTop(float largest) {
    uint64_t sum = 0;
    selection_.ForEach([&](float value, uint64_t) { sum += Mass()(Sub(value, largest)); });
    sum = cluster().Reduce(sum, AddOf());
    const float normalizer = Add(Log(Mul(__ull2float_rn(sum), 1 / kFixedPoint)), largest);

    const uint32_t num_top = AsksForToken() ? row_.num_top : 0;
    const uint32_t num_prompt_top = AsksForPrompt() ? row_.num_prompt_top : 0;
    const uint32_t most = max(num_top, num_prompt_top);
    if (most > 0) {
      const uint64_t cut = selection_.Cut(
          Count(), [most](uint64_t) { return uint64_t{most}; }, largest, LowestFinite(),
          LastFiniteKey());
      const uint32_t size = selection_.Gather([cut](float, uint64_t key) { return key <= cut; });
      if (cluster().rank() == 0) PutTopOfLists(size, normalizer, num_top, num_prompt_top);
    }
    if (AsksForPrompt() && IsFirstThread()) {
      args_.prompt_logprobs[index_].logprob = Sub(logits_[row_.prompt_token], normalizer);
    }
    return normalizer;
  }

  // The `size` keys in the lists are the likeliest tokens.
  __device__ void PutTopOfLists(uint32_t size, float normalizer, uint32_t num_top,
                                uint32_t num_prompt_top) {
    const uint64_t* const keys = selection_.CollectLists();
    if (threadIdx.x >= size) return;
    const uint64_t key = keys[threadIdx.x];
    const float logprob = Sub(ValueOf(key), normalizer);
    uint32_t place = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < size; ++i) place += keys[i] < key ? 1 : 0;
    if (place < num_top) {
      args_.logprobs[index_].top_tokens[place] = IdOf(key);
      args_.logprobs[index_].top_logprobs[place] = logprob;
    }
    if (place < num_prompt_top) {
      args_.prompt_logprobs[index_].top_tokens[place] = IdOf(key);
      args_.prompt_logprobs[index_].top_logprobs[place] = logprob;
    }
  }

  __device__ uint32_t Token(Best best) {
    if (Adjust()) best = BestOfAdjusted();
    // With every token forbidden, there is nothing to draw from.
    if (slot_.temperature < FLT_MIN || best.value == -INFINITY) return best.id;
    ToScores(best.value);
    return Draw(Filter());
  }

  // score = (logit − largest logit) / T
  __device__ void ToScores(float largest) {
    const float temperature = slot_.temperature;
    const auto score = [=](float logit) {
      const float difference = Sub(logit, largest);
      return WithoutNegativeZero(temperature == 1.0f ? difference : Div(difference, temperature));
    };
#pragma unroll 1
    for (uint32_t q = threadIdx.x; q < slice().num_quads(); q += kClusterThreads) {
      const float4 quad = values_[q];
      values_[q] = make_float4(score(quad.x), score(quad.y), score(quad.z), score(quad.w));
    }
  }

  // Bias, penalties and min_new_tokens. False if nothing applies.
  __device__ bool Adjust() {
    const bool bans_eos = row_.num_output_tokens < slot_.min_new_tokens && slot_.num_eos_tokens > 0;
    if (slot_.num_biases == 0 && slot_.has_penalty == 0 && !bans_eos) return false;
    const uint32_t* const bias_tokens = args_.bias_tokens + size_t{kMaxBiases} * row_.slot;
    const float* const bias_values = args_.bias_values + size_t{kMaxBiases} * row_.slot;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < slot_.num_biases; i += kClusterThreads) {
      float* const value = PlaceOf(bias_tokens[i]);
      if (value != nullptr) *value = WithoutNegativeZero(Clamp(Add(*value, bias_values[i])));
    }
    __syncthreads();
    if (slot_.has_penalty != 0) Penalize();
    __syncthreads();
    if (bans_eos) {
      const uint32_t* const eos_tokens = args_.eos_tokens + size_t{kMaxEosTokens} * row_.slot;
#pragma unroll 1
      for (uint32_t i = threadIdx.x; i < slot_.num_eos_tokens; i += kClusterThreads) {
        float* const value = PlaceOf(eos_tokens[i]);
        if (value != nullptr) *value = -INFINITY;
      }
    }
    __syncthreads();
    return true;
  }

  __device__ void Penalize() {
    // As the CPU's sampler, which takes a denormal as zero: 0 / 0 is no logit.
    const float repetition = fmaxf(slot_.repetition_penalty, FLT_MIN);
    const float frequency = slot_.frequency_penalty;
    const float presence = slot_.presence_penalty;
    const auto penalized = [=](float logit, uint32_t count) {
      if (count == 0) return logit;
      logit = logit < 0 ? Mul(logit, repetition) : Div(logit, repetition);
      const uint32_t num_output = count & ~kInPrompt;
      if (num_output > 0) {
        logit = Sub(logit, Mul(frequency, static_cast<float>(num_output)));
        logit = Sub(logit, presence);
      }
      return WithoutNegativeZero(Clamp(logit));
    };
    const uint32_t* const counts =
        args_.counts + size_t{args_.vocabulary_size} * row_.slot + slice().first;
#pragma unroll 1
    for (uint32_t q = threadIdx.x; q < slice().num_quads(); q += kClusterThreads) {
      uint32_t of_quad[4];
      LoadQuad(counts, slice(), q, 0u, of_quad);
      const float4 quad = values_[q];
      values_[q] = make_float4(penalized(quad.x, of_quad[0]), penalized(quad.y, of_quad[1]),
                               penalized(quad.z, of_quad[2]), penalized(quad.w, of_quad[3]));
    }
  }

  __device__ Best BestOfAdjusted() {
    Best best;
    selection_.ForEach([&](float value, uint64_t key) { best.Consider(value, IdOf(key)); });
    return Best::Unpack(cluster().Reduce(best.Packed(), MaxOf()));
  }

  // top_k and top_p: the last key that stays.
  __device__ uint64_t Filter() {
    uint64_t last = LastFiniteKey();
    const bool cuts_k = slot_.top_k > 0 && slot_.top_k < args_.vocabulary_size;
    const bool cuts_p = slot_.top_p < 1.0f;
    if (!cuts_k && !cuts_p) return last;
    const float lowest = LowestFinite();
    if (cuts_k) {
      const uint64_t k = slot_.top_k;
      last = WithTies(selection_.Cut(
          Count(), [k](uint64_t) { return k; }, 0.0f, lowest, last));
    }
    if (cuts_p) {
      // A token stays iff those before it have less than top_p of the mass.
      const double top_p = slot_.top_p;
      const auto target = [top_p](uint64_t mass) {
        return max(uint64_t{1}, uint64_t{__double2ull_ru(top_p * __ull2double_rn(mass))});
      };
      constexpr float kNoMass = -32.0f;  // e^−32 is below half a unit of kFixedPoint
      last = selection_.Cut(Mass(), target, 0.0f, fmaxf(lowest, kNoMass), last);
    }
    return last;
  }

  // arg max of score + noise over the keys up to `last`, as far as min_p lets them.
  __device__ uint32_t Draw(uint64_t last) {
    const Noise noise = {.seed = slot_.seed, .position = row_.position, .choice = slot_.choice};
    const float min_p = slot_.min_p;
    const uint32_t num_rounds =
        (SliceCapacity(args_.vocabulary_size) / 4 + kClusterThreads - 1) / kClusterThreads;
    Best best;
    // Nothing below what the first round finds need be looked at closely.
    float bar = -INFINITY;
#pragma unroll 1
    for (uint32_t round = 0; round < num_rounds; ++round) {
      const uint32_t q = threadIdx.x + round * kClusterThreads;
      if (q < slice().num_quads()) {
        DrawFromQuad(values_[q], slice().first + 4 * q, last, min_p, noise, fmaxf(bar, best.value),
                     &best);
      }
      if (round == 0) {
        bar = Best::Unpack(cluster().Reduce(best.Packed(), MaxOf())).value;
      }
    }
    return Best::Unpack(cluster().Reduce(best.Packed(), MaxOf())).id;
  }

  struct Noise {
    uint64_t seed;
    uint32_t position;
    uint32_t choice;
  };

  // Considers the tokens of a quad, as far as they may exceed `bar`.
  static __device__ void DrawFromQuad(const float4& quad, uint32_t first_id, uint64_t last,
                                      float min_p, const Noise& noise, float bar, Best* best) {
    float scores[4] = {quad.x, quad.y, quad.z, quad.w};
    float largest = -INFINITY;
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      if (KeyOf(scores[j], first_id + j) > last) scores[j] = -INFINITY;
      largest = fmaxf(largest, scores[j]);
    }
    if (largest == -INFINITY) return;
    uint64_t seed = noise.seed;
    asm volatile("" : "+l"(seed));  // lest ten rounds' keys fill the registers
    const uint4 random = Philox(make_uint4(noise.position, noise.choice, first_id / 4, 0), seed);
    const uint32_t words[4] = {random.x, random.y, random.z, random.w};
    // A token gets score + Gumbel(word) <= score − log(GumbelBound(word)). One percent covers all
    // rounding.
    const uint32_t greatest = max(max(words[0], words[1]), max(words[2], words[3]));
    if (GumbelBound(greatest) > 1.01f * __expf(largest - bar)) return;
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      if (scores[j] == -INFINITY) continue;
      if (min_p > 0 && !(ExpOfNegative(scores[j]) >= min_p)) continue;
      best->Consider(Add(scores[j], Gumbel(words[j])), first_id + j);
    }
  }

  const SamplingArgs& args_;
  const uint32_t index_;
  const LogitsRow row_;
  const SlotSampling& slot_;
  const float* const logits_;  // the row's
  float4* const values_;
  Selection selection_;
};

__global__ void __cluster_dims__(kClusterBlocks, 1, 1) __launch_bounds__(kClusterThreads, 3)
    SampleRows(const __grid_constant__ SamplingArgs args) {
  extern __shared__ float4 shared[];
  WaitForPrimary();
  LetSecondaryStart();
  if (args.rows[blockIdx.y].slot < 0) return;
  RowSampler(args, blockIdx.y, reinterpret_cast<BlockMemory*>(shared)).Run();
}

__global__ void __cluster_dims__(kClusterBlocks, 1, 1) __launch_bounds__(kClusterThreads)
    CountTokens(const int32_t* tokens, uint32_t num_tokens, uint32_t num_prompt_tokens,
                uint32_t* counts, uint32_t vocabulary_size) {
  WaitForPrimary();
  LetSecondaryStart();
  constexpr uint32_t kStride = kClusterBlocks * kClusterThreads;
  const uint32_t thread = blockIdx.x * kClusterThreads + threadIdx.x;
#pragma unroll 1
  for (uint32_t i = thread; i < vocabulary_size; i += kStride) counts[i] = 0;
  cooperative_groups::this_cluster().sync();
#pragma unroll 1
  for (uint32_t i = thread; i < num_tokens; i += kStride) {
    if (i < num_prompt_tokens) {
      atomicOr(&counts[tokens[i]], kInPrompt);
    } else {
      atomicAdd(&counts[tokens[i]], 1u);
    }
  }
}

}  // namespace

cudaError_t Sample(const SamplingArgs& args, SamplingNeeds needs, cudaStream_t stream) {
  if (args.vocabulary_size == 0 || args.vocabulary_size > kMaxVocabulary) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(kClusterBlocks, args.num_rows);
  if (!needs.draws && !needs.logprobs) {
    return LaunchKernel(GreedyRows, grid, kClusterThreads, 0, stream, args);
  }
  cudaError_t error = cudaFuncSetAttribute(SampleRows, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(SharedBytes(kMaxVocabulary)));
  if (error == cudaSuccess) {
    // As many blocks as fit, whatever that leaves of the first-level cache.
    error = cudaFuncSetAttribute(SampleRows, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
  }
  if (error != cudaSuccess) return error;
  return LaunchKernel(SampleRows, grid, kClusterThreads, SharedBytes(args.vocabulary_size), stream,
                      args);
}

cudaError_t FillCounts(const int32_t* tokens, uint32_t num_tokens, uint32_t num_prompt_tokens,
                       uint32_t* counts, uint32_t vocabulary_size, cudaStream_t stream) {
  return LaunchKernel(CountTokens, kClusterBlocks, kClusterThreads, 0, stream, tokens, num_tokens,
                      num_prompt_tokens, counts, vocabulary_size);
}

}  // namespace quire::cuda
