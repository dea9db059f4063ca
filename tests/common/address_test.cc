#include "common/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using testing::HasSubstr;

TEST(AddressTest, ReadsNamesAndBothFamilies) {
  for (const char* text : {"localhost:80", "127.0.0.1:0", "[::1]:65535", "worker-3.example:5000"}) {
    const auto address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
  EXPECT_EQ(ParseAddress("[fe80::1]:7")->host, "fe80::1");
  EXPECT_EQ(ParseAddress("[fe80::1]:7")->port, 7);
}

TEST(AddressTest, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> bad[] = {
      {"localhost", "port is missing"}, {"", "port is missing"},      {":80", "host is missing"},
      {"[]:80", "host is missing"},     {"::1:80", "needs brackets"}, {"a:b:80", "needs brackets"},
      {"host:65536", "0 to 65535"},     {"host:-1", "0 to 65535"},    {"host:", "0 to 65535"},
      {"host:8o", "0 to 65535"},
  };
  for (const auto& [text, what] : bad) {
    const auto address = ParseAddress(text);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(address.status().message(), HasSubstr(what)) << text;
    EXPECT_THAT(address.status().message(), HasSubstr(text));
  }
}

TEST(AddressTest, TakesNoHostThatCannotBeOne) {
  for (const std::string& host :
       {std::string("two\nlines"), std::string("a b"), std::string("a/b"), std::string("a\0", 2),
        std::string("fe80%eth0"), std::string("[::1\n]"), std::string("\xff"),
        std::string(254, 'h'), std::string(4 << 20, 'h')}) {
    const auto address = ParseAddress(host + ":1");
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(address.status().message(), HasSubstr("the host is not of letters"));
    EXPECT_LT(address.status().message().size(), 600u);
    EXPECT_EQ(address.status().message().find('\n'), std::string::npos);
  }
  for (const char* text : {"[fe80::1%eth0]:1", "host_1.a-b:1"}) {
    EXPECT_TRUE(ParseAddress(text).ok()) << text;
  }
  EXPECT_TRUE(ParseAddress(std::string(253, 'h') + ":1").ok());
}

TEST(AddressTest, ListensBeyondLoopbackOnlyWhenTold) {
  for (const char* host : {"localhost", "127.0.0.1", "127.8.9.10", "::1"}) {
    EXPECT_TRUE(CheckListenAddress({host, 1}, false).ok()) << host;
  }
  for (const char* host :
       {"0.0.0.0", "::", "192.168.0.1", "example.org", "128.0.0.1", "127.example.org"}) {
    EXPECT_EQ(CheckListenAddress({host, 1}, false).code(), absl::StatusCode::kFailedPrecondition)
        << host;
    EXPECT_TRUE(CheckListenAddress({host, 1}, true).ok());
  }
}

}  // namespace
}  // namespace quire
