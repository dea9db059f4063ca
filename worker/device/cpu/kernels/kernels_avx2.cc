#define QUIRE_SIMD_AVX2
#include "worker/device/cpu/kernels/table_inl.h"

namespace quire {
constinit const CpuKernels kAvx2Kernels = simd_avx2::kTable;
}  // namespace quire
