#ifndef QUIRE_WORKER_MODEL_SAFETENSORS_H_
#define QUIRE_WORKER_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Reads safetensors files (https://github.com/huggingface/safetensors, "Format") by memory map.
// Nothing in a file is trusted: every size is checked before it is used, and an error names file,
// tensor and offset.
namespace quire {

// One tensor inside a mapped file, row-major, little-endian.
struct StoredTensor {
  std::string name;
  std::string dtype;                // as the header writes it: "F32", "BF16", "F16", "I64", ...
  std::vector<uint64_t> shape;      // empty: a scalar
  const std::byte* data = nullptr;  // no alignment is promised
  uint64_t num_bytes = 0;
  uint64_t file_offset = 0;  // of data, from the start of the file
};

// "[2, 3]"
std::string ShapeString(const std::vector<uint64_t>& shape);

// A mapped file. The map lives as long as the object; pointers into it end with it. Immutable, so
// any number of threads may read it.
//
// A file that another process shortens while it is mapped gives SIGBUS, as with every memory map:
// checkpoints are replaced by renaming, not rewritten in place.
class SafetensorsFile {
 public:
  // Errors (InvalidArgument; NotFound and PermissionDenied from the open): header longer than the
  // file or than 32 MiB, not a JSON object, deeper than 8 levels, a dtype not in the format, a
  // product of a shape that overflows or differs from the offsets, offsets outside the file,
  // overlapping, or leaving bytes that no tensor owns, a name twice.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  // In the order of their offsets.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  absl::Status Map();
  absl::Status ParseHeader();

  std::string path_;
  const std::byte* map_ = nullptr;
  uint64_t map_bytes_ = 0;
  std::vector<StoredTensor> tensors_;
};

// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json
// names.
class Checkpoint {
 public:
  // Errors: those of SafetensorsFile; NotFound if neither file exists; InvalidArgument if the index
  // is malformed, names a shard outside the folder, or a tensor that its shard lacks, or a shard
  // holds a tensor that another holds.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& folder);

  struct Entry {
    const StoredTensor* tensor;
    const SafetensorsFile* file;
  };
  // By name; null if there is none.
  const Entry* Find(std::string_view name) const;
  const std::map<std::string, Entry, std::less<>>& tensors() const { return tensors_; }
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_SAFETENSORS_H_
