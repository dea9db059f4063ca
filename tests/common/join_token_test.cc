#include "common/join_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using testing::HasSubstr;

absl::StatusOr<std::string> ReadFileOf(const std::string& content) {
  const TempFolder folder;
  return ReadJoinToken(folder.Write("join-token", content));
}

TEST(JoinTokenTest, ReadsWithoutTheSpaceAround) {
  for (const char* content :
       {"0123456789abcdef", "0123456789abcdef\n", " \t0123456789abcdef\r\n\n"}) {
    const auto token = ReadFileOf(content);
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_EQ(*token, "0123456789abcdef");
  }
  EXPECT_TRUE(ReadFileOf(std::string(kMaxJoinTokenBytes, 'x')).ok());
}

TEST(JoinTokenTest, SaysWhatIsWrongAndQuotesNothing) {
  const std::pair<std::string, const char*> bad[] = {
      {"", "holds 0 bytes"},
      {"secret", "holds 6 bytes: 16 to 1024 are allowed"},
      {std::string(kMaxJoinTokenBytes + 1, 'x'), "holds 1025 bytes"},
      {"secret secret secret", "printable"},
      {std::string("secret\0secretsecret", 19), "printable"},
      {"secretsecretsecret\xc3\xa9", "printable"},
  };
  for (const auto& [content, what] : bad) {
    const absl::Status status = ReadFileOf(content).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("--join-token-file"));
    EXPECT_THAT(status.message(), HasSubstr(what));
    EXPECT_THAT(status.message(), Not(HasSubstr("secret")));
  }
  EXPECT_THAT(ReadJoinToken("/nowhere/token").status().message(),
              HasSubstr("/nowhere/token: cannot be read: No such file"));
  EXPECT_THAT(ReadJoinToken("/").status().message(), HasSubstr("cannot be read"));
}

TEST(JoinTokenTest, ComparesWholeSecrets) {
  EXPECT_TRUE(SameSecret("0123456789abcdef", "0123456789abcdef"));
  for (const char* other : {"", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"}) {
    EXPECT_FALSE(SameSecret("0123456789abcdef", other)) << other;
  }
}

}  // namespace
}  // namespace quire
