#include "worker/usable_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

class UsableMemoryTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root() const { return folder_.path(); }

  TempFolder folder_;
};

TEST_F(UsableMemoryTest, IsTheMachinesWhereNothingLimitsIt) {
  const uint64_t machine = UsableMemoryBytes(root());
  EXPECT_GT(machine, uint64_t{1} << 28);
  Write("/proc/self/cgroup", "1:name=systemd:/a\n0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  Write("/sys/fs/cgroup/a/memory.max", "much\n");
  Write("/sys/fs/cgroup/memory.max", "99999999999999999\n");
  EXPECT_EQ(UsableMemoryBytes(root()), machine);
}

TEST_F(UsableMemoryTest, IsTheLeastOfItsGroupAndThoseAbove) {
  Write("/proc/self/cgroup", "0::/system.slice/quire.service\n");
  Write("/sys/fs/cgroup/memory.max", "5000000\n");
  EXPECT_EQ(UsableMemoryBytes(root()), 5'000'000u);
  Write("/sys/fs/cgroup/system.slice/memory.max", "3000000\n");
  Write("/sys/fs/cgroup/system.slice/quire.service/memory.max", "4000000\n");
  EXPECT_EQ(UsableMemoryBytes(root()), 3'000'000u);
  Write("/sys/fs/cgroup/system.slice/quire.service/memory.max", "2000000\n");
  EXPECT_EQ(UsableMemoryBytes(root()), 2'000'000u);
}

TEST_F(UsableMemoryTest, SeesItsOwnGroupAsTheRootInAContainer) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "7000000\n");
  EXPECT_EQ(UsableMemoryBytes(root()), 7'000'000u);
}

}  // namespace
}  // namespace quire
