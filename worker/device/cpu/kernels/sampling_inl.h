// Passes over a row of logits. See kernels.h for what each does and simd_inl.h for what kind of
// header this is.
#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_SAMPLING_INL_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_SAMPLING_INL_H_

#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/kernels/simd_inl.h"

namespace quire::QUIRE_SIMD {

// The vector of a row at i; beyond n it holds `pad`.
inline Vec LoadRow(const float* row, uint32_t i, uint32_t n, float pad) {
  if (i + 16 <= n) return Load(row + i);
  const int count = static_cast<int>(n - i);
  return Select(FirstLanes(count), LoadFirst(row + i, count), Set1(pad));
}

inline uint32_t FirstIndexOf(const float* row, uint32_t n, float value) {
  for (uint32_t i = 0; i < n; i += 16) {
    const Vec x = LoadRow(row, i, n, -__builtin_inff());
    const uint32_t found = Bits(Equal(x, Set1(value)));
    if (found != 0) {
      const uint32_t index = i + static_cast<uint32_t>(__builtin_ctz(found));
      return index < n ? index : 0;
    }
  }
  return 0;
}

RowMax ArgMaxOf(const float* row, uint32_t n) {
  Vec max = Set1(-__builtin_inff());
  for (uint32_t i = 0; i < n; i += 16) max = Max(LoadRow(row, i, n, -__builtin_inff()), max);
  RowMax result;
  result.max = ReduceMax(max);
  result.index = FirstIndexOf(row, n, result.max);
  return result;
}

RowMax RowMaxOf(const float* row, uint32_t n) {
  Vec max[4];
  Vec zero[4];  // 0 · x is 0 unless x is infinite or a NaN
  for (int a = 0; a < 4; ++a) {
    max[a] = Set1(-__builtin_inff());
    zero[a] = Set1(0);
  }
  uint32_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int a = 0; a < 4; ++a) {
      const Vec x = Load(row + i + 16 * a);
      max[a] = Max(x, max[a]);
      zero[a] = Fma(x, Set1(0), zero[a]);
    }
  }
  for (; i < n; i += 16) {
    const Vec x = LoadRow(row, i, n, row[0]);
    max[0] = Max(x, max[0]);
    zero[0] = Fma(x, Set1(0), zero[0]);
  }
  RowMax result;
  result.max = ReduceMax(Max(Max(max[0], max[1]), Max(max[2], max[3])));
  result.finite = ReduceAdd(Add(Add(zero[0], zero[1]), Add(zero[2], zero[3]))) == 0;
  if (result.finite) result.index = FirstIndexOf(row, n, result.max);
  return result;
}

constexpr uint32_t kSumBlock = 1024;  // elements that are summed in fp32 before double takes over

float LogSumExp(const float* row, uint32_t n, float max) {
  double total = 0;
  for (uint32_t block = 0; block < n; block += kSumBlock) {
    const uint32_t end = block + kSumBlock < n ? block + kSumBlock : n;
    Vec sum = Set1(0);
    for (uint32_t i = block; i < end; i += 16) {
      sum = Add(sum, Exp(Sub(LoadRow(row, i, n, -__builtin_inff()), Set1(max))));
    }
    total += ReduceAdd(sum);
  }
  return FirstLane(Log(Set1(static_cast<float>(total)))) + max;
}

void Top(const float* row, uint32_t n, uint32_t k, uint32_t* top) {
  uint32_t size = 0;
  float bar = -__builtin_inff();  // with k entries: what a newcomer must exceed
  for (uint32_t i = 0; i < n; i += 16) {
    const Vec x = LoadRow(row, i, n, -__builtin_inff());
    uint32_t better = size < k ? 0xFFFF : Bits(Greater(x, Set1(bar)));
    for (; better != 0; better &= better - 1) {
      const uint32_t index = i + static_cast<uint32_t>(__builtin_ctz(better));
      if (index >= n || (size == k && !(row[index] > bar))) continue;
      uint32_t at = size < k ? size++ : k - 1;
      for (; at > 0 && row[top[at - 1]] < row[index]; --at) top[at] = top[at - 1];
      top[at] = index;
      if (size == k) bar = row[top[k - 1]];
    }
  }
}

void Score(const float* row, uint32_t n, float max, float temperature, float* scores,
           float* weights) {
  const bool divides = temperature != 1.0f;  // x / 1 is x
  for (uint32_t i = 0; i < n; i += 64) {
    for (uint32_t j = i; j < i + 64; j += 16) {
      Vec score = Set1(-__builtin_inff());
      if (j < n) {
        score = Sub(LoadRow(row, j, n, -__builtin_inff()), Set1(max));
        if (divides) score = Div(score, Set1(temperature));
      }
      Store(scores + j, score);
      Store(weights + j, Exp(score));
    }
  }
}

uint32_t Gather(const float* scores, const float* weights, uint32_t n, float threshold,
                float min_weight, float* out_scores, float* out_weights, uint32_t* out_indices) {
  static constexpr uint32_t kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IVec iota = ILoad(kIota);
  uint32_t size = 0;
  for (uint32_t i = 0; i < n; i += 16) {
    const Vec x = LoadRow(scores, i, n, -__builtin_inff());
    const Vec w = LoadRow(weights, i, n, -1.0f);
    Mask keep = And(GreaterEqual(x, Set1(threshold)), Greater(w, Set1(min_weight)));
    if (i + 16 > n) keep = And(keep, FirstLanes(static_cast<int>(n - i)));
    StorePacked(out_scores + size, x, keep);
    StorePacked(out_weights + size, w, keep);
    StorePacked(out_indices + size, IAdd(iota, ISet1(i)), keep);
    size += static_cast<uint32_t>(Count(keep));
  }
  return size;
}

double MassAbove(const float* scores, const float* weights, uint32_t n, float pivot,
                 uint32_t* count) {
  double total = 0;
  uint32_t above = 0;
  for (uint32_t block = 0; block < n; block += kSumBlock) {
    const uint32_t end = block + kSumBlock < n ? block + kSumBlock : n;
    Vec sum = Set1(0);
    for (uint32_t i = block; i < end; i += 16) {
      Mask take = Greater(LoadRow(scores, i, n, -__builtin_inff()), Set1(pivot));
      if (i + 16 > n) take = And(take, FirstLanes(static_cast<int>(n - i)));
      sum = Add(sum, Select(take, LoadRow(weights, i, n, 0), Set1(0)));
      above += static_cast<uint32_t>(Count(take));
    }
    total += ReduceAdd(sum);
  }
  *count = above;
  return total;
}

uint32_t Partition(float* scores, float* weights, uint32_t* indices, uint32_t n, float pivot,
                   bool upper, float* lowest, float* highest) {
  Vec high = Set1(-__builtin_inff());
  Vec negative_low = Set1(-__builtin_inff());
  uint32_t size = 0;
  for (uint32_t i = 0; i < n; i += 16) {
    const Vec x = Load(scores + i);  // the arrays have slack
    const Vec w = Load(weights + i);
    const IVec index = ILoad(indices + i);
    Mask keep = upper ? Greater(x, Set1(pivot)) : GreaterEqual(Set1(pivot), x);
    if (i + 16 > n) keep = And(keep, FirstLanes(static_cast<int>(n - i)));
    high = Max(Select(keep, x, Set1(-__builtin_inff())), high);
    negative_low = Max(Select(keep, Sub(Set1(0), x), Set1(-__builtin_inff())), negative_low);
    // size <= i, and the vectors of this round were read: writing 16 lanes is safe.
    StorePacked(scores + size, x, keep);
    StorePacked(weights + size, w, keep);
    StorePacked(indices + size, index, keep);
    size += static_cast<uint32_t>(Count(keep));
  }
  *lowest = -ReduceMax(negative_low);
  *highest = ReduceMax(high);
  return size;
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of 16
// counters; c becomes the four words of each.
inline void Philox(IVec c[4], uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    IVec high0, low0, high1, low1;
    MulWide(c[0], 0xD2511F53u, &high0, &low0);
    MulWide(c[2], 0xCD9E8D57u, &high1, &low1);
    c[0] = IXor(IXor(high1, c[1]), ISet1(key0));
    c[1] = low1;
    c[2] = IXor(IXor(high0, c[3]), ISet1(key1));
    c[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// −log(−log u) for u = ((x >> 8) + 0.5) · 2^−24. u itself has 25 significant bits and an fp32
// number 24, so for u >= ½ the exact 1 − u is used: log u = log(1 − (1 − u)).
inline Vec Gumbel(IVec x) {
  const IVec k = ShiftRight<8>(x);
  const Vec scale = Set1(0x1p-24f);
  const Mask upper = IGreaterSigned(k, ISet1((1u << 23) - 1));
  // Upper half.
  const Vec rest = Mul(Add(ToFloatSigned(ISub(ISet1((1u << 24) - 1), k)), Set1(0.5f)), scale);
  const Mask near_one = Greater(Set1(0.29289321f), rest);
  const Vec f_upper = Select(near_one, Sub(Set1(0), rest), Sub(Set1(1.0f), Add(rest, rest)));
  const Vec e_upper = Select(near_one, Set1(0), Set1(-1.0f));
  // Lower half: as in Log.
  const Vec u = Mul(Add(ToFloatSigned(k), Set1(0.5f)), scale);
  const IVec exponent = ShiftRightSigned<23>(ISub(AsInt(u), ISet1(0x3F3504F3)));
  const IVec mantissa = ISub(AsInt(u), ShiftLeft<23>(exponent));
  const Vec f = Select(upper, f_upper, Sub(AsFloat(mantissa), Set1(1.0f)));
  const Vec e = Select(upper, e_upper, ToFloatSigned(exponent));
  return Sub(Set1(0), Log(Sub(Set1(0), LogOfParts(f, e))));
}
constexpr float kGumbelBound = 17.5f;  // u <= 1 − 2^−25, so the noise is below 17.33

uint32_t GumbelArgMax(const float* scores, const float* weights, uint32_t n, const KeptSet& kept,
                      const GumbelKey& key) {
  // Lane 4 L + i takes counter 4 i + L, so that the transposed words lie in the order of the ids.
  static constexpr uint32_t kCounters[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  static constexpr uint32_t kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const IVec iota = ILoad(kIota);
  const Vec minus_infinity = Set1(-__builtin_inff());
  float bar = -__builtin_inff();  // the best so far
  Vec best = minus_infinity;
  IVec best_index = ISet1(0);
  for (uint32_t i = 0; i < n; i += 64) {
    Vec x[4];
    Vec max = minus_infinity;
    for (uint32_t a = 0; a < 4; ++a) {
      x[a] = Load(scores + i + 16 * a);
      const IVec index = IAdd(iota, ISet1(i + 16 * a));
      const Mask tie =
          And(Equal(x[a], Set1(kept.threshold)), IGreaterSigned(ISet1(kept.end_tie), index));
      const Mask keep = And(Or(Greater(x[a], Set1(kept.threshold)), tie),
                            GreaterEqual(Load(weights + i + 16 * a), Set1(kept.min_weight)));
      x[a] = Select(keep, x[a], minus_infinity);
      max = Max(x[a], max);
    }
    // None of the 64 can win, whatever its noise.
    if (!Any(Greater(Add(max, Set1(kGumbelBound)), Set1(bar)))) continue;
    IVec words[4] = {ISet1(key.position), ISet1(key.choice), IAdd(ILoad(kCounters), ISet1(i / 4)),
                     ISet1(0)};
    Philox(words, key.seed);
    Transpose4(words);
    for (uint32_t a = 0; a < 4; ++a) {
      const Vec noisy = Add(x[a], Gumbel(words[a]));
      const Mask better = Greater(noisy, best);
      best = Select(better, noisy, best);
      best_index = ISelect(better, IAdd(iota, ISet1(i + 16 * a)), best_index);
    }
    bar = ReduceMax(best);
  }
  float lanes[16];
  uint32_t indices[16];
  Store(lanes, best);
  IStore(indices, best_index);
  int winner = 0;
  for (int l = 1; l < 16; ++l) {
    if (lanes[l] > lanes[winner] || (lanes[l] == lanes[winner] && indices[l] < indices[winner])) {
      winner = l;
    }
  }
  return indices[winner];
}

}  // namespace quire::QUIRE_SIMD

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_SAMPLING_INL_H_
