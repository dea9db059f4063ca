#ifndef QUIRE_COMMON_JSON_DEPTH_H_
#define QUIRE_COMMON_JSON_DEPTH_H_

#include <cstddef>
#include <string_view>

namespace quire {

// Whether arrays and objects of the JSON text are nested in more than `most` levels. To be asked of
// all JSON from outside before it is parsed: what reads, copies or writes a value calls itself once
// a level, and a megabyte of "[" is more than a stack holds. Of text that is no JSON the answer
// holds up to its first error.
bool IsNestedDeeperThan(std::string_view json, size_t most);

}  // namespace quire

#endif  // QUIRE_COMMON_JSON_DEPTH_H_
