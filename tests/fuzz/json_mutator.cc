#include "tests/fuzz/json_mutator.h"

#include <nlohmann/json.hpp>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

void Collect(Json* node, std::vector<Json*>* nodes) {
  nodes->push_back(node);
  if (!node->is_structured()) return;
  for (Json& child : *node) Collect(&child, nodes);
}

Json OddNumber(FuzzRandom& random) {
  static const Json kNumbers[] = {0,
                                  1,
                                  -1,
                                  2,
                                  16,
                                  4294967295u,
                                  4294967296u,
                                  9223372036854775807,
                                  18446744073709551615u,
                                  0.5,
                                  -0.0,
                                  1e308,
                                  1e-320,
                                  1e30};
  return kNumbers[random() % std::size(kNumbers)];
}

void Change(Json* node, const std::vector<Json*>& others, FuzzRandom& random) {
  switch (random() % 10) {
    case 0:
      *node = OddNumber(random);
      return;
    case 1:
      *node = Json(random() % 2 == 0);
      return;
    case 2:
      *node = nullptr;
      return;
    case 3:
      *node = Json::array({*node});
      return;
    case 4: {  // a value from elsewhere in the file
      const Json copy = *others[random() % others.size()];
      *node = copy;
      return;
    }
    default:
      break;
  }
  if (node->is_number_float()) {
    *node = node->get<double>() * (random() % 2 == 0 ? 2 : -0.5);
  } else if (node->is_number()) {
    const auto value = node->get<uint64_t>();
    *node = random() % 2 == 0 ? value * 2 : value + random() % 3 - 1;
  } else if (node->is_string()) {
    *node = MutateBytes(node->get<std::string>(), 256);
  } else if (node->is_boolean()) {
    *node = !node->get<bool>();
  } else if (node->is_structured() && !node->empty()) {
    auto child = node->begin();
    std::advance(child, random() % node->size());
    if (random() % 2 == 0) {
      node->erase(child);
    } else if (node->is_array()) {
      const Json copy = *child;
      node->push_back(copy);
    } else {
      const std::string key = MutateBytes(child.key(), 64);
      const Json copy = *child;
      (*node)[key] = copy;
    }
  } else {
    *node = Json::object();
  }
}

}  // namespace

std::string MutateBytes(const std::string& text, size_t max_bytes) {
  std::string bytes = text.substr(0, max_bytes);
  const size_t size = bytes.size();
  bytes.resize(max_bytes);
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, max_bytes));
  return bytes;
}

std::string MutateJson(const std::string& text, FuzzRandom& random, size_t max_bytes) {
  Json json = random() % 4 == 0 ? Json(Json::value_t::discarded)
                                : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return MutateBytes(text, max_bytes);
  for (uint32_t i = 0; i <= random() % 2; ++i) {
    std::vector<Json*> nodes;
    Collect(&json, &nodes);
    Change(nodes[random() % nodes.size()], nodes, random);
  }
  std::string changed = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return changed.size() <= max_bytes ? changed : MutateBytes(text, max_bytes);
}

}  // namespace quire
