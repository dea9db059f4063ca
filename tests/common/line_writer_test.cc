#include "common/line_writer.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/clock.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::Lt;

constexpr int64_t kLong = 600'000'000;  // microseconds

class LineWriterTest : public testing::Test {
 protected:
  LineWriterTest() {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    read_end_ = ends[0];
    write_end_ = ends[1];
  }
  ~LineWriterTest() override {
    close(read_end_);
    CloseWriteEnd();
  }
  void CloseWriteEnd() {
    if (write_end_ >= 0) close(write_end_);
    write_end_ = -1;
  }
  // Every line until the write end is closed.
  std::vector<std::string> ReadAll() {
    std::string text;
    char buffer[1 << 14];
    for (ssize_t got; (got = read(read_end_, buffer, sizeof buffer)) > 0;) text.append(buffer, got);
    return absl::StrSplit(absl::StripSuffix(text, "\n"), '\n');
  }

  int read_end_ = -1;
  int write_end_ = -1;
};

TEST_F(LineWriterTest, WritesInOrderAndFlushes) {
  LineWriter writer(write_end_, 10);
  writer.Post("one\n");
  writer.Post("two\n");
  EXPECT_TRUE(writer.Flush(SteadyMicros() + kLong));
  CloseWriteEnd();
  EXPECT_THAT(ReadAll(), ElementsAre("one", "two"));
}

TEST_F(LineWriterTest, WhoPostsNeverWaitsForAReaderThatStalls) {
  constexpr size_t kLines = 500;
  constexpr size_t kWaiting = 20;
  // Fewer fill the pipe than may wait: however late the writer comes, it stalls.
  const std::string padding(fcntl(write_end_, F_GETPIPE_SZ) / 10, 'x');
  std::vector<std::string> lines;
  {
    LineWriter writer(write_end_, kWaiting);
    for (size_t i = 0; i < kLines; ++i) writer.Post(absl::StrCat(i, " ", padding, "\n"));
    EXPECT_FALSE(writer.Flush(SteadyMicros()));
    auto reader = std::async(std::launch::async, [this] { return ReadAll(); });
    EXPECT_TRUE(writer.Flush(SteadyMicros() + kLong));
    writer.Post("after\n");
    EXPECT_TRUE(writer.Flush(SteadyMicros() + kLong));
    CloseWriteEnd();
    lines = reader.get();
  }
  // Nothing is out of place, and what is missing was counted where it is missing.
  size_t next = 0;
  size_t written = 0;
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    const std::vector<std::string> words = absl::StrSplit(lines[i], ' ');
    size_t number = 0;
    ASSERT_TRUE(absl::SimpleAtoi(words[0], &number)) << lines[i];
    if (words.size() > 2) {
      EXPECT_EQ(lines[i], absl::StrCat(number, " lines were dropped here"));
      next += number;
    } else {
      EXPECT_EQ(number, next++);
      ++written;
    }
  }
  EXPECT_EQ(next, kLines);
  EXPECT_THAT(written, Lt(kLines));
  EXPECT_EQ(lines.back(), "after");
}

TEST_F(LineWriterTest, AForkedProcessWritesForItself) {
  LineWriter writer(write_end_, 10);
  const pid_t child = fork();
  if (child == 0) {
    writer.Post("from the child\n");
    _exit(writer.Flush(SteadyMicros() + kLong) ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  CloseWriteEnd();
  EXPECT_THAT(ReadAll(), ElementsAre("from the child"));
}

}  // namespace
}  // namespace quire
