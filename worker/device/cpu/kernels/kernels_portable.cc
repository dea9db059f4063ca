#define QUIRE_SIMD_PORTABLE
#include "worker/device/cpu/kernels/table_inl.h"

namespace quire {
constinit const CpuKernels kPortableKernels = simd_portable::kTable;
}  // namespace quire
