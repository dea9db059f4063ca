#define QUIRE_SIMD_AVX512
#include "worker/device/cpu/kernels/table_inl.h"

namespace quire {
constinit const CpuKernels kAvx512Kernels = simd_avx512::kTable;
}  // namespace quire
