#include "worker/device/cpu/gemm/processor.h"

namespace quire {

// AVX-512 is emulated with AVX2, in the build of these tests.
bool ProcessorSupports(Isa isa) {
  return isa == Isa::kPortable || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}

}  // namespace quire
