#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_PTX_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_PTX_CUH_

#include <cstdint>

// Instructions that CUDA C++ has no name for (PTX ISA 9.0), one function each.
namespace quire::cuda {

inline __device__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes from global to shared memory without waiting: the first `bytes` of them, zeros
// for the rest. With none, `from` is not read. Both addresses are multiples of 16.
inline __device__ void CopyAsync(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
}

// Closes the group of this thread's copies since the last call; it may be empty.
inline __device__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all of this thread's groups but the kPending latest have arrived.
template <int kPending>
inline __device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and
// gets elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each.
inline __device__ uint4 LoadMatrices(uint32_t address) {
  uint4 m;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.x), "=r"(m.y), "=r"(m.z), "=r"(m.w)
               : "r"(address));
  return m;
}

// The same of the transposed matrices: a lane gets column l / 4, rows 2 (l % 4) and the next.
inline __device__ uint4 LoadMatricesTransposed(uint32_t address) {
  uint4 m;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.x), "=r"(m.y), "=r"(m.z), "=r"(m.w)
               : "r"(address));
  return m;
}

// sum[16 x 8] += a[16 x 16] · b[16 x 8], bf16 with fp32 sums. With g = lane / 4 and t = lane % 4 a
// lane holds of `sum` rows g and g + 8 (two elements each), columns 2t and 2t + 1; of `a` {row g,
// row g + 8} at columns 2t, 2t + 1, then at those + 8; of `b` rows 2t, 2t + 1, then those + 8, of
// column g.
inline __device__ void MultiplyAdd(float (&sum)[4], const uint4& a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// 2^x to 2^-22; subnormal results are zero. Exactly 1 of 0, 0 of −inf.
inline __device__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two values rounded to bf16, `low` in the lower half.
inline __device__ uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_PTX_CUH_
