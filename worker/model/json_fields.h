#ifndef QUIRE_WORKER_MODEL_JSON_FIELDS_H_
#define QUIRE_WORKER_MODEL_JSON_FIELDS_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Reading of untrusted JSON objects with errors that name file, key and value.
namespace quire {

struct JsonLimits {
  size_t max_bytes = size_t{1} << 20;
  size_t max_depth = 16;
};

// The object that `text` holds. InvalidArgument, naming `file`: too long, not JSON, not an object,
// nested deeper than max_depth, or with a key twice in one object.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file,
                                               const JsonLimits& limits);

// The whole file as text. NotFound if there is none; InvalidArgument if it is longer than
// max_bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// A value as it goes into a message: compact JSON, cut to a readable length.
std::string JsonForMessage(const nlohmann::json& value);

// Takes fields out of one JSON object. The first problem is kept in status(), after which getters
// answer their defaults, so a reader asks for all fields and checks once. JSON null counts as
// absent, as Hugging Face writes it.
class FieldReader {
 public:
  // `prefix` goes before keys in messages: "rope_parameters." for a nested object. The object must
  // outlive the reader.
  FieldReader(const nlohmann::json& object, std::string_view file, std::string_view prefix = "")
      : object_(object), file_(file), prefix_(prefix) {}

  const absl::Status& status() const { return status_; }
  // "FILE: KEY is VALUE; it PROBLEM", or "FILE: KEY is missing; it PROBLEM".
  void Fail(std::string_view key, std::string_view problem);
  void FailWith(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  // Present, even as null.
  bool Contains(std::string_view key) const { return object_.contains(std::string(key)); }
  // Null if absent or JSON null. Marks the key as read, as every getter does.
  const nlohmann::json* Find(std::string_view key);

  std::optional<uint32_t> Uint(std::string_view key, uint32_t min, uint32_t max);
  uint32_t RequiredUint(std::string_view key, uint32_t min, uint32_t max);
  std::optional<bool> Bool(std::string_view key);
  // Finite.
  std::optional<double> Number(std::string_view key, double min, double max);
  double RequiredNumber(std::string_view key, double min, double max);
  std::optional<std::string> String(std::string_view key);
  // One id or a list of them, sorted, each once.
  std::vector<uint32_t> TokenIds(std::string_view key, uint32_t vocab_size);

  void MarkRead(std::string_view key) { read_.insert(std::string(key)); }
  // In the order of the alphabet.
  std::vector<std::string> UnreadKeys() const;

 private:
  const nlohmann::json& object_;
  std::string file_;
  std::string prefix_;
  std::set<std::string> read_;
  absl::Status status_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_JSON_FIELDS_H_
