#include "coordinator/model/served_model.h"

#include <algorithm>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "common/json_depth.h"
#include "common/sha256.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 64;  // of a file that a worker sent

absl::Status Wrong(const std::string& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

// An empty object where the folder has no such file.
absl::StatusOr<Json> ReadObject(const ModelFiles& files, const std::string& name) {
  const auto found = files.find(name);
  if (found == files.end()) return Json::object();
  if (IsNestedDeeperThan(found->second, kMaxDepth)) {
    return Wrong(name, absl::StrCat("is nested deeper than ", kMaxDepth, " levels"));
  }
  Json json = Json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Wrong(name, "is not a JSON object");
  return json;
}

// A number within [min, max]; nothing where the key is missing or null.
absl::StatusOr<std::optional<double>> ReadNumber(const Json& json, const std::string& file,
                                                 const char* key, double min, double max) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::optional<double>();
  if (!found->is_number()) return Wrong(file, absl::StrCat(key, " is not a number"));
  const double value = found->get<double>();
  if (!(value >= min && value <= max)) {
    return Wrong(file, absl::StrCat(key, " is ", value, "; allowed: ", min, " to ", max));
  }
  return std::optional<double>(value);
}

// eos_token_id: an id, a list of ids, or null.
absl::Status AddEosIds(const Json& json, const std::string& file, std::set<uint32_t>* ids) {
  const auto found = json.find("eos_token_id");
  if (found == json.end() || found->is_null()) return absl::OkStatus();
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return Wrong(file, "eos_token_id is neither a token id nor a list of them");
    }
    ids->insert(id.get<uint32_t>());
  }
  return absl::OkStatus();
}

}  // namespace

std::string FilesDigest(const ModelFiles& files) {
  std::string digests;
  for (const auto& [file, content] : files) {
    absl::StrAppend(&digests, Sha256Digest(file), Sha256Digest(content));
  }
  return Sha256Digest(digests);
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ServedModel::Load(const std::string& name,
                                                                     const ModelFiles& files,
                                                                     const Options& options) {
  std::shared_ptr<ServedModel> model(new ServedModel);
  model->name_ = name;
  for (const auto& [file, content] : files) model->digests_[file] = Sha256Digest(content);
  if (absl::Status status = model->ReadConfigs(files, options); !status.ok()) return status;

  auto tokenizer = Tokenizer::Load(files);
  if (tokenizer.ok()) {
    model->tokenizer_ = *std::move(tokenizer);
  } else if (!absl::IsNotFound(tokenizer.status())) {
    return tokenizer.status();
  }
  auto chat_template = ChatTemplate::Load(files);
  if (chat_template.ok()) {
    model->chat_template_ = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return model;
}

absl::Status ServedModel::ReadConfigs(const ModelFiles& files, const Options& options) {
  const std::string kGeneration = "generation_config.json";
  auto config = ReadObject(files, "config.json");
  if (!config.ok()) return config.status();
  auto generation = ReadObject(files, kGeneration);
  if (!generation.ok()) return generation.status();

  std::set<uint32_t> eos;
  if (absl::Status status = AddEosIds(*config, "config.json", &eos); !status.ok()) return status;
  if (absl::Status status = AddEosIds(*generation, kGeneration, &eos); !status.ok()) return status;
  eos_token_ids_.assign(eos.begin(), eos.end());
  if (!options.use_generation_config) return absl::OkStatus();

  const auto temperature = ReadNumber(*generation, kGeneration, "temperature", 0, 2);
  if (!temperature.ok()) return temperature.status();
  const auto top_k = ReadNumber(*generation, kGeneration, "top_k", 0, UINT32_MAX);
  if (!top_k.ok()) return top_k.status();
  const auto top_p = ReadNumber(*generation, kGeneration, "top_p", 1e-9, 1);
  if (!top_p.ok()) return top_p.status();
  const auto min_p = ReadNumber(*generation, kGeneration, "min_p", 0, 1);
  if (!min_p.ok()) return min_p.status();
  defaults_.temperature = static_cast<float>(temperature->value_or(defaults_.temperature));
  defaults_.top_k = static_cast<uint32_t>(top_k->value_or(defaults_.top_k));
  defaults_.top_p = static_cast<float>(top_p->value_or(defaults_.top_p));
  defaults_.min_p = static_cast<float>(min_p->value_or(defaults_.min_p));
  return absl::OkStatus();
}

absl::Status ServedModel::CheckSameFiles(const ModelFiles& files) const {
  std::set<std::string> names;
  for (const auto& [file, digest] : digests_) names.insert(file);
  for (const auto& [file, content] : files) names.insert(file);
  for (const std::string& file : names) {
    const auto mine = digests_.find(file);
    const auto theirs = files.find(file);
    if (mine != digests_.end() && theirs != files.end() &&
        mine->second == Sha256Digest(theirs->second)) {
      continue;
    }
    return absl::FailedPreconditionError(
        absl::StrCat(file, " differs from that of the workers that serve ", name_, " already"));
  }
  return absl::OkStatus();
}

}  // namespace quire
