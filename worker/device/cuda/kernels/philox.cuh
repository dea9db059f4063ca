#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_PHILOX_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_PHILOX_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace quire::cuda {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the four
// random words of a counter.
__host__ __device__ inline uint4 Philox(uint4 counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter.x;
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter.z;
    counter =
        make_uint4(static_cast<uint32_t>(b >> 32) ^ counter.y ^ key0, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter.w ^ key1, static_cast<uint32_t>(a));
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_PHILOX_CUH_
