#include "common/logging.h"

#include <cstdlib>
#include <string>

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

TEST(LoggingDeathTest, WhatOthersSentStaysOnItsLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        SetUpLogging("quire-test", LogLevel::kInfo);
        LogInfo("said: a\n2026-01-01 E quire-test forged\x7f\xc3\xa9");
        LogInfo(std::string(2 * kMaxLogBytes, 'x'));
        std::exit(7);
      },
      testing::ExitedWithCode(7),
      "I quire-test said: a\\\\x0a2026-01-01 E quire-test forged\\\\x7f\xc3\xa9\n"
      ".*I quire-test x+\\.\\.\\. \\(32768 bytes\\)\n$");
}

}  // namespace
}  // namespace quire
