#include "tests/parity/goldens.h"

#include <bit>
#include <fstream>

#include "scheduler/check.h"

namespace quire {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename T>
std::vector<T> Read(std::ifstream& stream, size_t count) {
  std::vector<T> values(count);
  stream.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(count * sizeof(T)));
  QUIRE_CHECK(stream.good());
  return values;
}

}  // namespace

std::vector<Golden> ReadGoldens(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  const std::vector<uint32_t> header = Read<uint32_t>(stream, 2);
  std::vector<Golden> goldens(header[1]);
  for (Golden& golden : goldens) {
    const std::vector<uint32_t> lengths = Read<uint32_t>(stream, 2);
    golden.vocabulary = header[0];
    golden.num_prompt_tokens = lengths[0];
    golden.ids = Read<TokenId>(stream, lengths[0] + lengths[1]);
    golden.logits = Read<float>(stream, (golden.ids.size() - 1) * golden.vocabulary);
  }
  return goldens;
}

}  // namespace quire
