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
      {"--priority-aging-ms=-1", "--priority-aging-ms"},
      {"--tenant-weight=a",
       "--tenant-weight: a: NAME=WEIGHT is allowed, with a weight of 1 to 1000"},
      {"--tenant-weight=a=0", "--tenant-weight: a=0"},
      {"--tenant-weight=a=1001", "--tenant-weight: a=1001"},
      {"--join=a:65536", "--join: \"a:65536\""},
      {"--host=0.0.0.0", "--insecure"},
  };
  for (const auto& [argument, words] : bad) {
    EXPECT_THAT(Refusal({argument}), HasSubstr(words)) << argument;
  }
  EXPECT_THAT(Refusal({"--insecure", "--host=::", "--join=a:1"}), HasSubstr("--advertise-address"));
}

TEST(WorkerFlagsTest, TenantsHaveOneWeightEach) {
  EXPECT_EQ(Refusal({"--tenant-weight=a=2", "--tenant-weight=b=3", "--tenant-weight=a=2"}),
            "--tenant-weight: a has two weights");
  WorkerFlags flags;
  flags.tenant_weights = {"a=2", "b=c=1000", "=3"};
  const auto weights = TenantWeightsOf(flags);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->Of("a"), 2u);
  EXPECT_EQ(weights->Of("b=c"), 1000u);
  EXPECT_EQ(weights->Of(""), 3u);
  EXPECT_EQ(weights->Of("d"), 1u);
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
