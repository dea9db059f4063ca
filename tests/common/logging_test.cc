#include "common/logging.h"

#include <cstdlib>

#include <gtest/gtest.h>

namespace quire {
namespace {

// In a process of its own: the set-up is global.
TEST(LoggingDeathTest, NoLineIsLostAtExit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        SetUpLogging("quire-test", LogLevel::kInfo);
        Log(LogLevel::kDebug, "not this one");
        for (int i = 0; i < 8000; ++i) LogInfo("a line");  // as many may wait, and some do
        LogError("the last line");
        std::exit(7);
      },
      testing::ExitedWithCode(7), "E quire-test the last line\n$");
}

}  // namespace
}  // namespace quire
