// libFuzzer's mutator for inputs of sections (sections.h): changes one of the files, as JSON where
// it is JSON.
#include <algorithm>
#include <cstring>

#include "tests/fuzz/json_mutator.h"
#include "tests/fuzz/sections.h"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  using namespace quire;
  FuzzRandom random(seed);
  Sections sections = SplitSections({reinterpret_cast<const char*>(data), size});
  std::string changed;
  if (!sections.empty() && random() % 16 != 0) {
    auto& [name, text] = sections[random() % sections.size()];
    if (random() % 32 == 0) {
      std::erase_if(sections, [name = name](const auto& section) { return section.first == name; });
    } else {
      const size_t room = max_size > size ? max_size - size : 0;
      text = MutateJson(text, random, text.size() + std::min<size_t>(room, 256) + 1);
    }
    changed = JoinSections(sections);
  } else {
    changed = MutateBytes({reinterpret_cast<const char*>(data), size}, max_size);
  }
  changed.resize(std::min(changed.size(), max_size));
  std::memcpy(data, changed.data(), changed.size());
  return changed.size();
}
