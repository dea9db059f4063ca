#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_TRIAL_H_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_TRIAL_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// What trying a matrix product needs on the device.
namespace quire::cuda {

// Fills [count] bf16 elements with draws from about a normal distribution of that deviation; the
// same seed gives the same values.
cudaError_t FillNormalBf16(void* data, size_t count, uint64_t seed, float deviation,
                           cudaStream_t stream);

// The same of deviation 1, but one in 32 is up to 1,024 times as large or as small: exponents that
// lie as far apart as those of activations do.
cudaError_t FillActivationsBf16(void* data, size_t count, uint64_t seed, cudaStream_t stream);

// *differing = elements of `element_bytes` (2 or 4) whose bits differ. `differing` is on the
// device.
cudaError_t CountDiffering(const void* a, const void* b, size_t count, uint32_t element_bytes,
                           unsigned long long* differing, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_TRIAL_H_
