#include "worker/model/json_fields.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <ios>

#include "worker/model/str_cat.h"

namespace quire {

using Json = nlohmann::json;

absl::StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view file,
                                     const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(
        StrCat(file, ": ", text.size(), " bytes of JSON; at most ", limits.max_bytes, " are read"));
  }
  std::string problem;
  std::vector<std::set<std::string>> open_objects;  // keys seen; an array has an entry as well
  const auto callback = [&](int, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        open_objects.emplace_back();
        if (open_objects.size() > limits.max_depth && problem.empty()) {
          problem = StrCat("JSON nested deeper than ", limits.max_depth, " levels");
        }
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        open_objects.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!open_objects.back().insert(parsed.get_ref<const std::string&>()).second &&
            problem.empty()) {
          problem = StrCat("the key ", JsonForMessage(parsed), " occurs twice");
        }
        break;
      case Json::parse_event_t::value:
        break;
    }
    return problem.empty();  // once it is bad, nothing more is kept
  };
  Json value = Json::parse(text, callback, /*allow_exceptions=*/false);
  if (!problem.empty()) return absl::InvalidArgumentError(StrCat(file, ": ", problem));
  if (value.is_discarded()) return absl::InvalidArgumentError(StrCat(file, ": not valid JSON"));
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        StrCat(file, ": must hold a JSON object, not ", JsonForMessage(value)));
  }
  return value;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return absl::NotFoundError(StrCat(path, ": cannot be opened"));
  std::string text(max_bytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad() || (stream.fail() && !stream.eof())) {
    return absl::InvalidArgumentError(StrCat(path, ": cannot be read"));
  }
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(StrCat(path, ": longer than ", max_bytes, " bytes"));
  }
  return text;
}

std::string JsonForMessage(const Json& value) {
  constexpr size_t kMaxLength = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxLength) text = StrCat(text.substr(0, kMaxLength), "...");
  return text;
}

void FieldReader::Fail(std::string_view key, std::string_view problem) {
  if (!status_.ok()) return;
  const auto it = object_.find(std::string(key));
  status_ = absl::InvalidArgumentError(
      it == object_.end()
          ? StrCat(file_, ": ", prefix_, key, " is missing; it ", problem)
          : StrCat(file_, ": ", prefix_, key, " is ", JsonForMessage(*it), "; it ", problem));
}

const Json* FieldReader::Find(std::string_view key) {
  MarkRead(key);
  const auto it = object_.find(std::string(key));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<uint32_t> FieldReader::Uint(std::string_view key, uint32_t min, uint32_t max) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  // A negative number is not unsigned; anything above 2^64 is a float.
  if (!value->is_number_unsigned() || value->get<uint64_t>() < min ||
      value->get<uint64_t>() > max) {
    Fail(key, StrCat("must be an integer from ", min, " to ", max));
    return std::nullopt;
  }
  return static_cast<uint32_t>(value->get<uint64_t>());
}

uint32_t FieldReader::RequiredUint(std::string_view key, uint32_t min, uint32_t max) {
  const std::optional<uint32_t> value = Uint(key, min, max);
  if (!value) Fail(key, StrCat("must be an integer from ", min, " to ", max));
  return value.value_or(min);
}

std::optional<bool> FieldReader::Bool(std::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    Fail(key, "must be true or false");
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<double> FieldReader::Number(std::string_view key, double min, double max) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= min && number <= max)) {
    Fail(key, StrCat("must be a number from ", min, " to ", max));
    return std::nullopt;
  }
  return number;
}

double FieldReader::RequiredNumber(std::string_view key, double min, double max) {
  const std::optional<double> value = Number(key, min, max);
  if (!value) Fail(key, StrCat("must be a number from ", min, " to ", max));
  return value.value_or(min);
}

std::optional<std::string> FieldReader::String(std::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    Fail(key, "must be a string");
    return std::nullopt;
  }
  return value->get<std::string>();
}

std::vector<uint32_t> FieldReader::TokenIds(std::string_view key, uint32_t vocab_size) {
  const Json* value = Find(key);
  if (value == nullptr) return {};
  const auto is_token = [vocab_size](const Json& id) {
    return id.is_number_unsigned() && id.get<uint64_t>() < vocab_size;
  };
  std::vector<uint32_t> ids;
  bool good = true;
  if (value->is_array()) {
    for (const Json& id : *value) {
      good = good && is_token(id);
      if (good) ids.push_back(static_cast<uint32_t>(id.get<uint64_t>()));
    }
  } else if ((good = is_token(*value))) {
    ids.push_back(static_cast<uint32_t>(value->get<uint64_t>()));
  }
  if (!good) {
    Fail(key, StrCat("must be a token id, or a list of them, below vocab_size (", vocab_size, ")"));
    return {};
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<std::string> FieldReader::UnreadKeys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) {
    if (!read_.contains(key)) keys.push_back(key);
  }
  return keys;
}

}  // namespace quire
