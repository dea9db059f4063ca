#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_POINTWISE_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_POINTWISE_INL_CUH_

#include <cuda_bf16.h>

// What is computed element by element, with the roundings of the compute dtype T: one definition
// for the kernels of elementwise.cu and for those that a matrix product ends with.
namespace quire::cuda {

// The value as T holds it.
template <typename T>
__device__ __forceinline__ float RoundTo(float value);
template <>
__device__ __forceinline__ float RoundTo<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ float RoundTo<__nv_bfloat16>(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

// 1 / (1 + e^−x): in bf16, whose roundings are far coarser, by the device's approximations of 2^x
// and 1 / x.
template <typename T>
__device__ __forceinline__ float Sigmoid(float x);
template <>
__device__ __forceinline__ float Sigmoid<float>(float x) {
  return __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-x)));
}
template <>
__device__ __forceinline__ float Sigmoid<__nv_bfloat16>(float x) {
  float power;
  float sigmoid;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(__fmul_rn(x, -1.44269504f)));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigmoid) : "f"(__fadd_rn(1.0f, power)));
  return sigmoid;
}

// silu(gate) · up, silu rounded; the product is left to be rounded.
template <typename T>
__device__ __forceinline__ float SiluMulOf(float gate, float up) {
  return __fmul_rn(RoundTo<T>(__fmul_rn(gate, Sigmoid<T>(gate))), up);
}

// RoPE of an element of a head's lower half and the one that it turns against. Each product is
// rounded, as in Hugging Face's q · cos + rotate_half(q) · sin; the sums are left to be rounded.
template <typename T>
__device__ __forceinline__ void RotatePair(float cos, float sin, float* low, float* high) {
  const float low_cos = RoundTo<T>(__fmul_rn(*low, cos));
  const float high_sin = RoundTo<T>(__fmul_rn(*high, sin));
  const float high_cos = RoundTo<T>(__fmul_rn(*high, cos));
  const float low_sin = RoundTo<T>(__fmul_rn(*low, sin));
  *low = __fsub_rn(low_cos, high_sin);
  *high = __fadd_rn(high_cos, low_sin);
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_POINTWISE_INL_CUH_
