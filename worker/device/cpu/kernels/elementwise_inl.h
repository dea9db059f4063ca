// RMSNorm, residual, SiLU, RoPE and the key layout. See kernels.h for what each does and simd_inl.h
// for what kind of header this is.
#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_ELEMENTWISE_INL_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_ELEMENTWISE_INL_H_

#include "worker/device/cpu/kernels/simd_inl.h"

namespace quire::QUIRE_SIMD {

// Calls full(i) for every whole vector of n elements and part(i, count) for what is left.
template <typename Full, typename Part>
inline void ForEachVector(int n, Full full, Part part) {
  int i = 0;
  for (; i + 16 <= n; i += 16) full(i);
  if (i < n) part(i, n - i);
}

// Sum of squares: lane l of accumulator a sums the elements 64 b + 16 a + l in order of b.
template <typename T>
inline float SumOfSquares(const T* x, int n) {
  Vec sum[4] = {Set1(0), Set1(0), Set1(0), Set1(0)};
  int i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int a = 0; a < 4; ++a) {
      const Vec v = Load(x + i + 16 * a);
      sum[a] = Fma(v, v, sum[a]);
    }
  }
  for (int a = 0; i < n; ++a, i += 16) {
    const Vec v = n - i >= 16 ? Load(x + i) : LoadFirst(x + i, n - i);
    sum[a] = Fma(v, v, sum[a]);
  }
  return ReduceAdd(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
}

template <typename T>
bool RmsNorm(const T* x, const T* weight, float eps, int n, T* y) {
  const float mean = SumOfSquares(x, n) / static_cast<float>(n);
  const Vec factor = Div(Set1(1.0f), Sqrt(Set1(mean + eps)));
  ForEachVector(
      n, [&](int i) { Store(y + i, Mul(RoundTo<T>(Mul(Load(x + i), factor)), Load(weight + i))); },
      [&](int i, int count) {
        const Vec normed = RoundTo<T>(Mul(LoadFirst(x + i, count), factor));
        StoreFirst(y + i, Mul(normed, LoadFirst(weight + i, count)), count);
      });
  return mean <= 0x1.fffffep127f;  // false for a NaN, too
}

template <typename T>
void AddTo(T* x, const T* delta, int n) {
  ForEachVector(
      n, [&](int i) { Store(x + i, Add(Load(x + i), Load(delta + i))); },
      [&](int i, int count) {
        StoreFirst(x + i, Add(LoadFirst(x + i, count), LoadFirst(delta + i, count)), count);
      });
}

template <typename T>
inline Vec SiluMulOf(Vec gate, Vec up) {
  const Vec exp = Exp(Sub(Set1(0.0f), gate));
  return Mul(RoundTo<T>(Div(gate, Add(Set1(1.0f), exp))), up);
}

template <typename T>
void SiluMul(const T* gate, const T* up, int n, T* out) {
  ForEachVector(
      n, [&](int i) { Store(out + i, SiluMulOf<T>(Load(gate + i), Load(up + i))); },
      [&](int i, int count) {
        StoreFirst(out + i, SiluMulOf<T>(LoadFirst(gate + i, count), LoadFirst(up + i, count)),
                   count);
      });
}

// Each product is rounded, as in Hugging Face's q * cos + rotate_half(q) * sin: no fused
// multiply-add.
template <typename T>
void Rope(T* head, const float* cos, const float* sin, int half) {
  const auto rotate = [&](int i, int count) {
    const Vec low = LoadFirst(head + i, count);
    const Vec high = LoadFirst(head + half + i, count);
    const Vec c = LoadFirst(cos + i, count);
    const Vec s = LoadFirst(sin + i, count);
    StoreFirst(head + i, Sub(RoundTo<T>(Mul(low, c)), RoundTo<T>(Mul(high, s))), count);
    StoreFirst(head + half + i, Add(RoundTo<T>(Mul(high, c)), RoundTo<T>(Mul(low, s))), count);
  };
  int i = 0;
  for (; i + 16 <= half; i += 16) rotate(i, 16);
  if (i < half) rotate(i, half - i);
}

// Keys lie with positions side by side, so that scores of 16 keys are 16 lanes and no sum crosses
// lanes: fp32 [head_dim][block_size], bf16 in pairs [head_dim / 2][block_size][2].
inline void StoreKey(const float* key, int head_dim, uint32_t block_size, uint32_t offset,
                     float* block) {
  for (int d = 0; d < head_dim; ++d) block[d * static_cast<size_t>(block_size) + offset] = key[d];
}
inline void StoreKey(const Bf16* key, int head_dim, uint32_t block_size, uint32_t offset,
                     Bf16* block) {
  for (int d = 0; d < head_dim; d += 2) {
    __builtin_memcpy(block + d * static_cast<size_t>(block_size) + 2 * offset, key + d,
                     2 * sizeof(Bf16));
  }
}

}  // namespace quire::QUIRE_SIMD

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_ELEMENTWISE_INL_H_
