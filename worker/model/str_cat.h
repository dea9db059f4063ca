#ifndef QUIRE_WORKER_MODEL_STR_CAT_H_
#define QUIRE_WORKER_MODEL_STR_CAT_H_

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quire {

namespace str_cat_internal {
template <typename T>
const T& Adapt(const T& value) {
  return value;
}
inline absl::string_view Adapt(const std::string_view& text) { return {text.data(), text.size()}; }
}  // namespace str_cat_internal

// absl::StrCat that also takes std::string_view: Debian's Abseil has a string_view of its own.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(str_cat_internal::Adapt(args)...);
}

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_STR_CAT_H_
