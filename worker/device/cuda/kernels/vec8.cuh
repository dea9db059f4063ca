#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_VEC8_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_VEC8_CUH_

#include <cuda_bf16.h>

#include <cstdint>

// Eight consecutive elements of a tensor, which memory gives and takes 16 bytes at a time.
namespace quire::cuda {

template <typename T>
struct Vec8 {
  uint4 words[sizeof(T) / 2];
};

// REQUIRES of both: `from` and `to` are aligned to 16 bytes.
template <typename T>
__device__ __forceinline__ Vec8<T> LoadVec8(const T* from) {
  Vec8<T> vec;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) {
    vec.words[i] = reinterpret_cast<const uint4*>(from)[i];
  }
  return vec;
}
template <typename T>
__device__ __forceinline__ void StoreVec8(T* to, const Vec8<T>& vec) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) {
    reinterpret_cast<uint4*>(to)[i] = vec.words[i];
  }
}

struct Floats8 {
  float x[8];
};

__device__ __forceinline__ Floats8 ToFloats(const Vec8<float>& vec) {
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out.x[4 * i] = __uint_as_float(vec.words[i].x);
    out.x[4 * i + 1] = __uint_as_float(vec.words[i].y);
    out.x[4 * i + 2] = __uint_as_float(vec.words[i].z);
    out.x[4 * i + 3] = __uint_as_float(vec.words[i].w);
  }
  return out;
}
__device__ __forceinline__ Floats8 ToFloats(const Vec8<__nv_bfloat16>& vec) {
  const uint32_t words[4] = {vec.words[0].x, vec.words[0].y, vec.words[0].z, vec.words[0].w};
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.x[2 * i] = __uint_as_float(words[i] << 16);
    out.x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}

// To nearest, ties to even.
template <typename T>
__device__ __forceinline__ Vec8<T> FromFloats(const Floats8& in);
template <>
__device__ __forceinline__ Vec8<float> FromFloats<float>(const Floats8& in) {
  Vec8<float> vec;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    vec.words[i] = make_uint4(__float_as_uint(in.x[4 * i]), __float_as_uint(in.x[4 * i + 1]),
                              __float_as_uint(in.x[4 * i + 2]), __float_as_uint(in.x[4 * i + 3]));
  }
  return vec;
}
template <>
__device__ __forceinline__ Vec8<__nv_bfloat16> FromFloats<__nv_bfloat16>(const Floats8& in) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(in.x[2 * i], in.x[2 * i + 1]);
    words[i] = __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y))
                                                  << 16;
  }
  return Vec8<__nv_bfloat16>{{make_uint4(words[0], words[1], words[2], words[3])}};
}

// The values as T holds them.
template <typename T>
__device__ __forceinline__ Floats8 RoundTo(const Floats8& in) {
  return ToFloats(FromFloats<T>(in));
}

// An element at a time, without a rounding but those of the operations themselves.
template <typename Fn>
__device__ __forceinline__ Floats8 Map(Fn fn) {
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.x[i] = fn(i);
  return out;
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_VEC8_CUH_
