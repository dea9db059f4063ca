#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_SELF_TEST_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_SELF_TEST_H_

#include "worker/device/cpu/gemm/isa.h"
#include "worker/device/cpu/kernels/kernels.h"

namespace quire {

// Whether every operation of both tables gives the same bits on a fixed set of hard operands (odd
// lengths, denormals, keys of several segments, ties). A NaN equals any other.
bool SameResults(const CpuKernels& a, const CpuKernels& b);

// The fastest path that computes what the portable one does, in matrix products (UsableIsas) and in
// all else (SameResults): what an executor runs on. Takes some 10 ms: call it once, at start-up.
Isa FastestExactIsa();

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_SELF_TEST_H_
