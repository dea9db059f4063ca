#include "worker/model/numerics_id.h"

#include "worker/model/sha256.h"
#include "worker/model/str_cat.h"

namespace quire {

NumericsParts ModelNumericsParts(const Weights& weights, uint32_t num_threads) {
  NumericsParts parts;
  for (std::string& field : NumericFields(weights.config())) {
    const size_t equals = field.find('=');
    parts.emplace_back(StrCat("config.", field.substr(0, equals)), field.substr(equals + 1));
  }
  parts.emplace_back("weight_dtype", DTypeName(weights.dtype()));
  for (WeightDigest& digest : weights.ComputeDigests(num_threads)) {
    parts.emplace_back(StrCat("weight.", digest.name), std::move(digest.digest));
  }
  return parts;
}

std::string NumericsId(const NumericsParts& parts) {
  std::string text;
  for (const auto& [what, value] : parts) {
    for (const std::string& item : {what, value})
      absl::StrAppend(&text, item.size(), ":", item, ";");
  }
  return Sha256Hex(text);
}

}  // namespace quire
