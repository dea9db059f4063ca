#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "worker/model/json_fields.h"
#include "worker/model/str_cat.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;  // the header's length, little-endian
constexpr JsonLimits kHeaderLimits = {.max_bytes = size_t{32} << 20, .max_depth = 8};
constexpr JsonLimits kIndexLimits = {.max_bytes = size_t{32} << 20, .max_depth = 8};
constexpr size_t kMaxRank = 8;
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kSingleFile[] = "model.safetensors";

// Bits an element takes; empty for a word that the format does not have.
std::optional<uint64_t> BitsOf(std::string_view dtype) {
  static constexpr std::pair<std::string_view, uint64_t> kBits[] = {
      {"F64", 64},    {"F32", 32},    {"F16", 16},        {"BF16", 16},       {"I64", 64},
      {"I32", 32},    {"I16", 16},    {"I8", 8},          {"U64", 64},        {"U32", 32},
      {"U16", 16},    {"U8", 8},      {"BOOL", 8},        {"C64", 64},        {"F8_E4M3", 8},
      {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
      {"F6_E3M2", 6}, {"F4", 4}};
  for (const auto& [name, bits] : kBits) {
    if (name == dtype) return bits;
  }
  return std::nullopt;
}

absl::Status ErrnoStatus(const std::string& path, std::string_view action, int error) {
  const std::string message = StrCat(path, ": cannot ", action, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES) return absl::PermissionDeniedError(message);
  return absl::InvalidArgumentError(message);
}

class HeaderParser {
 public:
  HeaderParser(const std::string& path, const std::byte* data, uint64_t data_bytes,
               uint64_t data_offset)
      : path_(path), data_(data), data_bytes_(data_bytes), data_offset_(data_offset) {}

  absl::StatusOr<std::vector<StoredTensor>> Parse(const Json& header) {
    std::vector<StoredTensor> tensors;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;  // free text
      absl::StatusOr<StoredTensor> tensor = ParseTensor(name, entry);
      if (!tensor.ok()) return tensor.status();
      tensors.push_back(*std::move(tensor));
    }
    std::stable_sort(
        tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
          return std::pair(a.file_offset, a.num_bytes) < std::pair(b.file_offset, b.num_bytes);
        });
    uint64_t end = data_offset_;
    for (const StoredTensor& tensor : tensors) {
      if (tensor.file_offset != end) {
        return Error(tensor.name, StrCat("starts at offset ", tensor.file_offset,
                                         " of the file, but what lies before it ends at ", end,
                                         ": tensors must neither overlap nor leave holes"));
      }
      end += tensor.num_bytes;
    }
    if (end != data_offset_ + data_bytes_) {
      return absl::InvalidArgumentError(StrCat(path_, ": ", data_offset_ + data_bytes_ - end,
                                               " bytes from offset ", end,
                                               " on belong to no tensor"));
    }
    return tensors;
  }

 private:
  absl::Status Error(std::string_view tensor, std::string_view problem) const {
    return absl::InvalidArgumentError(
        StrCat(path_, ": tensor ", JsonForMessage(Json(tensor)), " ", problem));
  }

  absl::StatusOr<StoredTensor> ParseTensor(const std::string& name, const Json& entry) const {
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
        !entry.contains("shape") || !entry.contains("data_offsets")) {
      return Error(name,
                   StrCat("must have dtype, shape and data_offsets, not ", JsonForMessage(entry)));
    }
    StoredTensor tensor;
    tensor.name = name;
    const Json& dtype = entry["dtype"];
    const std::optional<uint64_t> bits =
        dtype.is_string() ? BitsOf(dtype.get<std::string>()) : std::nullopt;
    if (!bits) return Error(name, StrCat("has an unknown dtype ", JsonForMessage(dtype)));
    tensor.dtype = dtype.get<std::string>();

    const Json& shape = entry["shape"];
    if (!shape.is_array() || shape.size() > kMaxRank) {
      return Error(name, StrCat("has a shape that is not a list of at most ", kMaxRank,
                                " sizes: ", JsonForMessage(shape)));
    }
    uint64_t total_bits = *bits;
    for (const Json& size : shape) {
      if (!size.is_number_unsigned() ||
          __builtin_mul_overflow(total_bits, size.get<uint64_t>(), &total_bits)) {
        return Error(name, StrCat("has an impossible shape ", JsonForMessage(shape)));
      }
      tensor.shape.push_back(size.get<uint64_t>());
    }
    if (total_bits % 8 != 0)
      return Error(name, StrCat("has a shape that ends inside a byte: ", JsonForMessage(shape)));

    const Json& offsets = entry["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      return Error(name,
                   StrCat("has data_offsets that are not two offsets: ", JsonForMessage(offsets)));
    }
    const uint64_t begin = offsets[0].get<uint64_t>();
    const uint64_t end = offsets[1].get<uint64_t>();
    if (begin > end || end > data_bytes_) {
      return Error(name, StrCat("has data_offsets ", JsonForMessage(offsets), " outside the ",
                                data_bytes_, " bytes of data that the file holds from offset ",
                                data_offset_, " on; is the file truncated?"));
    }
    if (end - begin != total_bits / 8) {
      return Error(name, StrCat("of dtype ", tensor.dtype, " and shape ", JsonForMessage(shape),
                                " takes ", total_bits / 8, " bytes, but data_offsets ",
                                JsonForMessage(offsets), " span ", end - begin));
    }
    tensor.data = data_ + begin;
    tensor.num_bytes = end - begin;
    tensor.file_offset = data_offset_ + begin;
    return tensor;
  }

  const std::string& path_;
  const std::byte* data_;
  uint64_t data_bytes_;
  uint64_t data_offset_;
};

}  // namespace

std::string ShapeString(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (uint64_t size : shape) absl::StrAppend(&text, text.size() == 1 ? "" : ", ", size);
  return text + "]";
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path));
  absl::Status status = file->Map();
  if (status.ok()) status = file->ParseHeader();
  if (!status.ok()) return status;
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) munmap(const_cast<std::byte*>(map_), map_bytes_);
}

absl::Status SafetensorsFile::Map() {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(path_, "be opened", errno);
  struct stat info;
  absl::Status status;
  if (fstat(fd, &info) != 0) {
    status = ErrnoStatus(path_, "be examined", errno);
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(StrCat(path_, ": not a regular file"));
  } else if (static_cast<uint64_t>(info.st_size) < kLengthBytes) {
    status = absl::InvalidArgumentError(
        StrCat(path_, ": ", info.st_size, " bytes are too short for a safetensors file"));
  } else {
    map_bytes_ = static_cast<uint64_t>(info.st_size);
    void* map = mmap(nullptr, map_bytes_, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      status = ErrnoStatus(path_, "be mapped", errno);
    } else {
      map_ = static_cast<const std::byte*>(map);
    }
  }
  close(fd);  // the map stays
  return status;
}

absl::Status SafetensorsFile::ParseHeader() {
  uint64_t header_bytes;
  std::memcpy(&header_bytes, map_, kLengthBytes);
  if (header_bytes > kHeaderLimits.max_bytes || header_bytes > map_bytes_ - kLengthBytes) {
    return absl::InvalidArgumentError(StrCat(path_, ": the header claims ", header_bytes,
                                             " bytes; the file holds ", map_bytes_ - kLengthBytes,
                                             " after offset 8, and at most ",
                                             kHeaderLimits.max_bytes, " are read"));
  }
  const std::string_view text(reinterpret_cast<const char*>(map_ + kLengthBytes), header_bytes);
  const absl::StatusOr<Json> header =
      ParseJsonObject(text, StrCat(path_, ": header"), kHeaderLimits);
  if (!header.ok()) return header.status();
  const uint64_t data_offset = kLengthBytes + header_bytes;
  absl::StatusOr<std::vector<StoredTensor>> tensors =
      HeaderParser(path_, map_ + data_offset, map_bytes_ - data_offset, data_offset).Parse(*header);
  if (!tensors.ok()) return tensors.status();
  tensors_ = *std::move(tensors);
  return absl::OkStatus();
}

namespace {

// Tensor name to shard file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kIndexLimits.max_bytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> index = ParseJsonObject(*text, path, kIndexLimits);
  if (!index.ok()) return index.status();
  const auto weight_map = index->find("weight_map");
  if (weight_map == index->end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(
        StrCat(path, ": weight_map must be an object of tensor and shard names"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : std::string();
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(
          StrCat(path, ": weight_map.", tensor, " is ", JsonForMessage(shard),
                 "; it must be the name of a file in the same folder"));
    }
    shards[tensor] = name;
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& folder) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint);
  checkpoint->folder_ = folder;
  const std::string index_path = StrCat(folder, "/", kIndexFile);
  std::set<std::string> files = {kSingleFile};
  std::map<std::string, std::string> shards;
  struct stat info;
  const bool single = stat(StrCat(folder, "/", kSingleFile).c_str(), &info) == 0;
  if (!single) {
    absl::StatusOr<std::map<std::string, std::string>> index = ReadIndex(index_path);
    if (absl::IsNotFound(index.status())) {
      return absl::NotFoundError(
          StrCat(folder, ": holds neither ", kSingleFile, " nor ", kIndexFile));
    }
    if (!index.ok()) return index.status();
    shards = *std::move(index);
    files.clear();
    for (const auto& [tensor, shard] : shards) files.insert(shard);
  }
  for (const std::string& name : files) {
    absl::StatusOr<std::unique_ptr<SafetensorsFile>> file =
        SafetensorsFile::Open(StrCat(folder, "/", name));
    if (!file.ok()) return file.status();
    for (const StoredTensor& tensor : (*file)->tensors()) {
      const auto [it, inserted] =
          checkpoint->tensors_.emplace(tensor.name, Entry{&tensor, file->get()});
      if (!inserted) {
        return absl::InvalidArgumentError(StrCat((*file)->path(), ": tensor ", tensor.name,
                                                 " is in ", it->second.file->path(), " as well"));
      }
    }
    checkpoint->files_.push_back(*std::move(file));
  }
  for (const auto& [tensor, shard] : shards) {
    const Entry* entry = checkpoint->Find(tensor);
    if (entry == nullptr || entry->file->path() != StrCat(folder, "/", shard)) {
      return absl::InvalidArgumentError(
          StrCat(index_path, ": weight_map puts ", tensor, " into ", shard, ", which lacks it"));
    }
  }
  return checkpoint;
}

const Checkpoint::Entry* Checkpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace quire
