#ifndef QUIRE_TESTS_WORKER_MODEL_SAFETENSORS_WRITER_H_
#define QUIRE_TESTS_WORKER_MODEL_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

// The bytes of a safetensors file with this header, whatever it says.
inline std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  bytes += header;
  bytes += data;
  return bytes;
}

// Gathers tensors into a well-formed file.
class SafetensorsWriter {
 public:
  void Add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
           std::string_view data) {
    std::string sizes;
    for (uint64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    header_ += (header_.empty() ? "" : ",") +
               ("\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + sizes +
                "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
                std::to_string(data_.size() + data.size()) + "]}");
    data_ += data;
  }
  template <typename T>
  void Add(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
           const std::vector<T>& values) {
    Add(name, dtype, shape,
        std::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  }
  std::string Bytes() const {
    std::string header = "{" + header_ + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    return SafetensorsBytes(header, data_);
  }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_MODEL_SAFETENSORS_WRITER_H_
