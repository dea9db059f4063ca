#ifndef QUIRE_CLIENTS_CLI_COMPARE_VARIANT_H_
#define QUIRE_CLIENTS_CLI_COMPARE_VARIANT_H_

#include <quire/v1/inference.pb.h>

#include <string>
#include <vector>

namespace quire {

// A kind of worker to compare: an engine with its KV cache and dtype, and the worker that stands
// for it.
struct CompareVariant {
  std::string engine;  // "hf", "baseline-dynamic", "baseline-static", "paged"
  std::string dtype;
  std::string worker;
  v1::Engine kind = v1::PAGED;

  bool is_reference() const { return engine == "hf" && dtype == "fp32"; }
  // Whether requests run together in it, or one after the other.
  bool runs_together() const { return kind == v1::PAGED; }
};

// The variants that READY workers of `model` offer, slowest kinds first and fp32
// before other dtypes, so that the reference is there before what is held against it. Of several
// workers of one variant the first by name stands for it.
std::vector<CompareVariant> FindVariants(const v1::GetLoadResponse& load, const std::string& model);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_COMPARE_VARIANT_H_
