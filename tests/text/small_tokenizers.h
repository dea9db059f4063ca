#ifndef QUIRE_TESTS_TEXT_SMALL_TOKENIZERS_H_
#define QUIRE_TESTS_TEXT_SMALL_TOKENIZERS_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace quire {

// tokenizer.json of vocabularies of some hundred tokens, one for every way of decoding.
struct SmallTokenizer {
  std::string name;
  nlohmann::json json;
};
std::vector<SmallTokenizer> SmallTokenizers();

}  // namespace quire

#endif  // QUIRE_TESTS_TEXT_SMALL_TOKENIZERS_H_
