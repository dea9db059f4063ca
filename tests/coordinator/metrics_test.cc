#include "coordinator/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include "common/rpc_status.h"

namespace quire {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

TEST(RequestLogLineTest, IsOneLineWhateverTheErrorSays) {
  RequestRecord record;
  record.request_id = "r";
  record.status =
      absl::InternalError("x\nrequest id=victim \"status\"=OK " + std::string(5000, 'y'));
  const std::string line = RequestLogLine(record);
  EXPECT_THAT(line, HasSubstr("status=INTERNAL"));
  EXPECT_THAT(line, HasSubstr(R"(why="x\nrequest id=victim \"status\"=OK y)"));
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  EXPECT_LT(line.size(), 600u);
}

TEST(RequestLogLineTest, ANameIsNoMoreThanAName) {
  RequestRecord record;
  record.request_id = "x status=OK output=9999";
  record.tenant = "a\"b";
  record.model = "m-1/x:y";
  const std::string line = RequestLogLine(record);
  EXPECT_THAT(line, HasSubstr(R"(id="x status=OK output=9999" model=m-1/x:y worker="" )"));
  EXPECT_THAT(line, HasSubstr(R"(tenant="a\"b" status=OK)"));
  EXPECT_THAT(line, Not(HasSubstr("first_token_ms")));
  record.first_token = 1500;
  EXPECT_THAT(RequestLogLine(record), HasSubstr(" first_token_ms=1.5 "));
}

TEST(RequestLogLineTest, NamesAWrongFieldWithoutItsText) {
  RequestRecord record;
  record.status = WithField(absl::InvalidArgumentError("chat: unknown role: secret"), "chat");
  EXPECT_THAT(RequestLogLine(record), EndsWith(" field=chat"));
  EXPECT_THAT(RequestLogLine(record), Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace quire
