#include "worker/device/cpu/gemm/processor.h"

namespace quire {

// The compiler's runtime asks cpuid, and the operating system's part through xgetbv.
bool ProcessorSupports(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return ProcessorSupports(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Isa::kAvx512Bf16:
      return ProcessorSupports(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

}  // namespace quire
