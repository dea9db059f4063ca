#include "clients/cli/compare_variant.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

std::string EngineName(const v1::WorkerLoad& worker) {
  switch (worker.engine()) {
    case v1::HF_REFERENCE:
      // HF's own default is the growing cache; only the other one needs saying.
      return worker.kv_cache() == "static" ? "hf-static" : "hf";
    case v1::BASELINE:
      return absl::StrCat("baseline-", worker.kv_cache());
    default:
      return "paged";
  }
}

int Order(v1::Engine engine) {
  return engine == v1::HF_REFERENCE ? 0 : engine == v1::BASELINE ? 1 : 2;
}

}  // namespace

std::vector<CompareVariant> FindVariants(const v1::GetLoadResponse& load,
                                         const std::string& model) {
  // Ordered by kind, engine, fp32 first, dtype.
  std::map<std::tuple<int, std::string, bool, std::string>, CompareVariant> variants;
  for (const v1::WorkerLoad& worker : load.workers()) {
    if (worker.state() != v1::WorkerLoad::READY) continue;
    if (worker.model() != model) continue;
    const CompareVariant variant{EngineName(worker), worker.dtype(), worker.name(),
                                 worker.engine()};
    const auto key = std::make_tuple(Order(variant.kind), variant.engine, variant.dtype != "fp32",
                                     variant.dtype);
    const auto [entry, is_new] = variants.emplace(key, variant);
    if (!is_new && variant.worker < entry->second.worker) entry->second = variant;
  }
  std::vector<CompareVariant> sorted;
  for (auto& [key, variant] : variants) sorted.push_back(std::move(variant));
  return sorted;
}

}  // namespace quire
