#include "common/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Sets a variable for the length of a test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

// A program with some settings.
class Program {
 public:
  Program() {
    flags_.Add("max-num-seqs", &max_num_seqs, "Sequences");
    flags_.Add("dtype", &dtype, "Data type");
    flags_.Add("join", &join, "Coordinators");
    flags_.AddSwitch("prefix-caching", &prefix_caching, "Reuse");
  }
  // The exit code, or nothing. What was printed goes to `errors` and `output`.
  std::optional<int> Parse(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    const auto exit_code = flags_.Parse(static_cast<int>(arguments.size()), arguments.data());
    errors = testing::internal::GetCapturedStderr();
    output = testing::internal::GetCapturedStdout();
    return exit_code;
  }
  // "value (source)".
  std::string Value(const std::string& name) const {
    for (const FlagSet::Value& value : flags_.values()) {
      if (value.name == name) return value.value + " (" + value.source + ")";
    }
    return "none";
  }

  uint32_t max_num_seqs = 256;
  std::string dtype = "auto";
  std::vector<std::string> join;
  bool prefix_caching = true;
  std::string errors;
  std::string output;

 private:
  FlagSet flags_{"program", "For tests."};
};

TEST(FlagsTest, CommandLineThenEnvironmentThenFileThenDefault) {
  const TempFolder folder;
  const std::string file =
      folder.Write("c.toml", "max-num-seqs = 1\ndtype = \"fp32\"\nprefix-caching = false\n");
  {
    Program program;
    ASSERT_EQ(program.Parse({}), std::nullopt);
    EXPECT_EQ(program.Value("max-num-seqs"), "256 (default)");
    EXPECT_TRUE(program.prefix_caching);
  }
  {
    Program program;
    ASSERT_EQ(program.Parse({"--config", file.c_str()}), std::nullopt);
    EXPECT_EQ(program.max_num_seqs, 1u);
    EXPECT_FALSE(program.prefix_caching);
    EXPECT_EQ(program.Value("max-num-seqs"), "1 (file)");
    EXPECT_EQ(program.Value("dtype"), "fp32 (file)");
    EXPECT_EQ(program.Value("prefix-caching"), "false (file)");
  }
  const Environment seqs("QUIRE_MAX_NUM_SEQS", "2");
  const Environment caching("QUIRE_PREFIX_CACHING", "true");
  {
    Program program;
    ASSERT_EQ(program.Parse({"--config", file.c_str()}), std::nullopt);
    EXPECT_EQ(program.Value("max-num-seqs"), "2 (environment)");
    EXPECT_TRUE(program.prefix_caching);
    EXPECT_EQ(program.Value("dtype"), "fp32 (file)");
  }
  {
    Program program;
    ASSERT_EQ(program.Parse({"--max-num-seqs=3", "--no-prefix-caching", "--config", file.c_str()}),
              std::nullopt);
    EXPECT_EQ(program.Value("max-num-seqs"), "3 (command line)");
    EXPECT_FALSE(program.prefix_caching);
  }
}

TEST(FlagsTest, ListsRepeat) {
  Program program;
  ASSERT_EQ(program.Parse({"--join", "a:1", "--join", "b:2"}), std::nullopt);
  EXPECT_THAT(program.join, ElementsAre("a:1", "b:2"));
  EXPECT_EQ(program.Value("join"), "a:1,b:2 (command line)");
}

TEST(FlagsTest, NamesAWrongFlagOrValue) {
  Program program;
  EXPECT_EQ(program.Parse({"--max-num-seq", "3"}), 2);
  EXPECT_THAT(program.errors, HasSubstr("--max-num-seq"));
  Program other;
  EXPECT_EQ(other.Parse({"--max-num-seqs", "many"}), 2);
  EXPECT_THAT(other.errors, HasSubstr("max-num-seqs"));
  EXPECT_THAT(other.errors, HasSubstr("many"));
}

TEST(FlagsTest, NamesAWrongVariable) {
  const Environment seqs("QUIRE_MAX_NUM_SEQS", "-5");
  Program program;
  EXPECT_EQ(program.Parse({}), 2);
  EXPECT_THAT(program.errors, HasSubstr("QUIRE_MAX_NUM_SEQS"));
  EXPECT_THAT(program.errors, HasSubstr("-5"));
}

TEST(FlagsTest, WarnsOfAVariableThatNoSettingHas) {
  const Environment wrong("QUIRE_MAX_NUM_SEQZ", "8");
  const Environment right("QUIRE_DTYPE", "float32");
  Program program;
  EXPECT_EQ(program.Parse({}), std::nullopt);
  EXPECT_THAT(program.errors, HasSubstr("warning"));
  EXPECT_THAT(program.errors, HasSubstr("QUIRE_MAX_NUM_SEQZ"));
  EXPECT_THAT(program.errors, testing::Not(HasSubstr("QUIRE_DTYPE")));
}

TEST(FlagsTest, NamesAWrongKeyOrFile) {
  const TempFolder folder;
  const std::string unknown = folder.Write("a.toml", "max-num-seqs = 1\nmax-queues = 3\n");
  Program program;
  EXPECT_EQ(program.Parse({"--config", unknown.c_str()}), 2);
  EXPECT_THAT(program.errors, HasSubstr("max-queues"));
  const std::string wrong = folder.Write("b.toml", "max-num-seqs = \"few\"\n");
  Program other;
  EXPECT_EQ(other.Parse({"--config", wrong.c_str()}), 2);
  EXPECT_THAT(other.errors, HasSubstr("few"));
  Program missing;
  EXPECT_EQ(missing.Parse({"--config", "/nonexistent.toml"}), 2);
  EXPECT_THAT(missing.errors, HasSubstr("/nonexistent.toml"));
}

TEST(FlagsTest, HelpAndVersionEndWell) {
  Program program;
  EXPECT_EQ(program.Parse({"--help"}), 0);
  EXPECT_THAT(program.output, HasSubstr("QUIRE_MAX_NUM_SEQS"));
  EXPECT_THAT(program.output, HasSubstr("256"));
  Program other;
  EXPECT_EQ(other.Parse({"--version"}), 0);
  EXPECT_THAT(other.output, HasSubstr("program "));
}

}  // namespace
}  // namespace quire
