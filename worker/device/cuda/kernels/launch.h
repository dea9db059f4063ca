#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_LAUNCH_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

// Programmatic dependent launch: a kernel may start while the one before it on the stream still
// runs, and waits in itself for what it needs. To be included by .cu files alone.
namespace quire::cuda {

#ifdef __CUDACC__
// The kernels before this one have ended and their writes are seen. To be called before anything is
// read that they wrote, and before anything is written that they may still read.
__device__ __forceinline__ void WaitForPrimary() { cudaGridDependencySynchronize(); }
// The next kernel may take what room is left on the device.
__device__ __forceinline__ void LetSecondaryStart() { cudaTriggerProgrammaticLaunchCompletion(); }
#endif

// Enqueues a kernel that calls WaitForPrimary.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                         cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Enqueues a kernel that starts when all before it have ended.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchKernelAfterAll(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                 size_t shared_bytes, cudaStream_t stream,
                                 Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_LAUNCH_H_
