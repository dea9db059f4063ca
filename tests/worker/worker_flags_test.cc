#include "worker/worker_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire {
namespace {

using testing::HasSubstr;

// What a worker says to these arguments before it stops; nothing if it goes on.
std::string Refusal(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), {"quire-worker", "--model=folder"});
  FlagSet flag_set("quire-worker", "");
  WorkerFlags flags;
  DeclareFlags(flag_set, &flags);
  testing::internal::CaptureStderr();
  const auto exit_code = flag_set.Parse(static_cast<int>(arguments.size()), arguments.data());
  const std::string errors = testing::internal::GetCapturedStderr();
  if (exit_code.has_value()) return errors;
  return std::string(CheckFlags(flags).message());
}

TEST(WorkerFlagsTest, TakesWhatIsInRange) {
  EXPECT_EQ(Refusal({}), "");
  EXPECT_EQ(Refusal({"--max-num-seqs=65536", "--max-queue=1048576", "--drain-timeout=0",
                     "--orphan-grace=0.5", "--advertise-address=[::1]:80"}),
            "");
  EXPECT_EQ(Refusal({"--insecure", "--host=0.0.0.0", "--join=a:1", "--advertise-address=b:2"}), "");
}

TEST(WorkerFlagsTest, NamesTheFlagThatIsOutOfRange) {
  const std::pair<const char*, const char*> bad[] = {
      {"--max-num-seqs=0", "--max-num-seqs"},
      {"--max-num-seqs=4294967295", "--max-num-seqs: 4294967295: 1 to 65536 is allowed"},
      {"--max-queue=4294967295", "--max-queue: 4294967295: 1 to 1048576 is allowed"},
      {"--drain-timeout=nan", "--drain-timeout"},
      {"--drain-timeout=-1", "--drain-timeout"},
      {"--drain-timeout=1e300", "--drain-timeout"},
      {"--orphan-grace=inf", "--orphan-grace"},
      {"--orphan-grace=nan", "--orphan-grace"},
      {"--advertise-address=nonsense", "--advertise-address: \"nonsense\""},
      {"--join=a:65536", "--join: \"a:65536\""},
      {"--host=0.0.0.0", "--insecure"},
  };
  for (const auto& [argument, words] : bad) {
    EXPECT_THAT(Refusal({argument}), HasSubstr(words)) << argument;
  }
  EXPECT_THAT(Refusal({"--insecure", "--host=::", "--join=a:1"}), HasSubstr("--advertise-address"));
}

TEST(WorkerFlagsTest, SendsNoTokenInTheClear) {
  EXPECT_THAT(Refusal({"--join-token-file=f", "--join=127.0.0.1:1", "--join=192.0.2.1:1"}),
              HasSubstr("--join 192.0.2.1:1"));
  EXPECT_EQ(Refusal({"--join-token-file=f", "--join=127.0.0.1:1", "--join=[::1]:1"}), "");
  EXPECT_EQ(Refusal({"--join-token-file=f", "--join=192.0.2.1:1", "--insecure"}), "");
  EXPECT_EQ(Refusal({"--join=192.0.2.1:1"}), "");
}

}  // namespace
}  // namespace quire
