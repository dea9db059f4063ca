#include "worker/device/cpu/gemm/isa.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/device/cpu/gemm/processor.h"

namespace quire {
namespace {

constexpr Isa kAllIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

absl::StatusOr<Isa> ParseIsa(std::string_view name) {
  std::string known;
  for (Isa isa : kAllIsas) {
    if (name == IsaName(isa)) return isa;
    known += (known.empty() ? "" : ", ") + std::string(IsaName(isa));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("instruction set '", std::string(name), "' is unknown; one of: ", known));
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> supported;
  for (Isa isa : kAllIsas) {
    if (ProcessorSupports(isa)) supported.push_back(isa);
  }
  return supported;
}

}  // namespace quire
