#include "worker/usable_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

// "max", like anything that is no number, limits nothing.
uint64_t ReadLimit(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  uint64_t limit = UINT64_MAX;
  if (std::getline(file, line) && !absl::SimpleAtoi(line, &limit)) limit = UINT64_MAX;
  return limit;
}

// The group's path below the mount point, from the line "0::/the/path".
std::string OwnGroup(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    absl::string_view path = line;
    if (absl::ConsumePrefix(&path, "0::/")) return std::string(path);
  }
  return "";
}

}  // namespace

uint64_t UsableMemoryBytes(const std::string& root) {
  uint64_t usable = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                    static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  std::string group = OwnGroup(root);
  for (;;) {
    const std::string folder = root + "/sys/fs/cgroup/" + group;
    usable = std::min(usable, ReadLimit(folder + "/memory.max"));
    if (group.empty()) return usable;
    const size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
}

}  // namespace quire
