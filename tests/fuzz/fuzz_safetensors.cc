// A model.safetensors. What is accepted lies inside the file, without overlaps or holes, and can be
// read and inspected; what is refused is refused with the file's name.
#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "tests/worker/model/temp_folder.h"
#include "worker/model/safetensors.h"
#include "worker/model/weights.h"

#ifdef QUIRE_LIBFUZZER
#include <cstring>

#include "tests/fuzz/json_mutator.h"

// Changes the header as JSON, and its length with it, or the bytes of the file.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  quire::FuzzRandom random(seed);
  const std::string file(reinterpret_cast<const char*>(data), size);
  uint64_t length = 0;
  if (size >= sizeof length) std::memcpy(&length, data, sizeof length);
  std::string changed;
  if (random() % 4 == 0 || size < sizeof length || length > size - sizeof length) {
    changed = quire::MutateBytes(file, max_size);
  } else {
    const std::string rest = file.substr(sizeof length + length);
    const std::string header =
        quire::MutateJson(file.substr(sizeof length, length), random, length + 256);
    length = header.size();
    changed.assign(reinterpret_cast<const char*>(&length), sizeof length);
    changed += header + rest;
    changed.resize(std::min(changed.size(), max_size));
  }
  std::memcpy(data, changed.data(), changed.size());
  return changed.size();
}
#endif

namespace quire {

QUIRE_FUZZ_TARGET(safetensors, input) {
  static const TempFolder folder;
  const std::string path = folder.Write("model.safetensors", input);
  const auto file = SafetensorsFile::Open(path);
  const auto ranges = InspectCheckpoint(folder.path(), 1);
  QUIRE_FUZZ_CHECK(file.ok() == ranges.ok(), file.status().ToString() + ranges.status().ToString());
  if (!file.ok()) {
    CheckRefusal(file.status(), {"model.safetensors: "});
    return;
  }
  uint64_t header_bytes = 0;
  std::copy_n(input.data(), sizeof header_bytes, reinterpret_cast<char*>(&header_bytes));
  uint64_t end = sizeof header_bytes + header_bytes;
  uint64_t sum = 0;
  for (const StoredTensor& tensor : (*file)->tensors()) {
    QUIRE_FUZZ_CHECK(tensor.file_offset == end, tensor.name);
    QUIRE_FUZZ_CHECK(tensor.num_bytes <= input.size() - tensor.file_offset, tensor.name);
    end += tensor.num_bytes;
    for (uint64_t i = 0; i < tensor.num_bytes; ++i) sum += static_cast<uint8_t>(tensor.data[i]);
  }
  QUIRE_FUZZ_CHECK(end == input.size(), "bytes that belong to no tensor");
  for (uint64_t i = sizeof header_bytes + header_bytes; i < input.size(); ++i) {
    sum -= static_cast<uint8_t>(input[i]);
  }
  QUIRE_FUZZ_CHECK(sum == 0, "tensors hold other bytes than the file");
  QUIRE_FUZZ_CHECK(ranges->size() == (*file)->tensors().size(), "tensors inspected");
}

}  // namespace quire
