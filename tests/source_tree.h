#ifndef QUIRE_TESTS_SOURCE_TREE_H_
#define QUIRE_TESTS_SOURCE_TREE_H_

#include <cstdlib>
#include <string>

namespace quire {

// Where a file of the project lies: under the folder that QUIRE_SOURCE_DIR names in the
// environment, for binaries that were built elsewhere, or else where the test was compiled.
inline std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("QUIRE_SOURCE_DIR");
  return std::string(root != nullptr ? root : QUIRE_TEST_SOURCE_DIR) + "/" + relative;
}

}  // namespace quire

#endif  // QUIRE_TESTS_SOURCE_TREE_H_
