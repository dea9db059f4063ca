#include "common/worker_identity.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using testing::HasSubstr;
using worker::v1::WorkerStatus;

WorkerStatus Announced() {
  WorkerStatus status;
  status.set_address("worker-3.example:5000");
  status.set_incarnation("17 of host 3");
  status.mutable_worker()->set_name("worker-3");
  return status;
}

void ExpectWrong(const WorkerStatus& status, const std::string& field) {
  const absl::Status checked = CheckAnnounced(status);
  EXPECT_TRUE(absl::IsInvalidArgument(checked)) << field << ": " << checked;
  EXPECT_THAT(checked.message(), HasSubstr(field));
  EXPECT_LT(checked.message().size(), 600u);
  EXPECT_EQ(checked.message().find('\n'), std::string::npos);
}

TEST(WorkerIdentityTest, TakesWhatWorkersSay) {
  EXPECT_TRUE(CheckAnnounced(Announced()).ok());
  WorkerStatus status = Announced();
  status.mutable_worker()->set_name(std::string(kMaxWorkerNameBytes, 'n'));
  status.mutable_worker()->set_model("Llama 3.2 (1B)");
  EXPECT_TRUE(CheckAnnounced(status).ok());
}

TEST(WorkerIdentityTest, NamesTheFieldThatIsWrong) {
  for (const std::string& text : {std::string(4 << 20, 'x'), std::string("a\nb"),
                                  std::string("a\0b", 3), std::string("\x7f")}) {
    WorkerStatus status = Announced();
    status.mutable_worker()->set_name(text);
    ExpectWrong(status, "WorkerStatus.worker.name");
    status = Announced();
    status.set_incarnation(text);
    ExpectWrong(status, "WorkerStatus.incarnation");
    status = Announced();
    status.mutable_worker()->set_model(text);
    ExpectWrong(status, "WorkerStatus.worker.model");
    status = Announced();
    status.set_address(text + ":1");
    ExpectWrong(status, "WorkerStatus.address");
  }
  WorkerStatus status = Announced();
  status.mutable_worker()->clear_name();
  ExpectWrong(status, "WorkerStatus.worker.name");
  status = Announced();
  status.clear_incarnation();
  ExpectWrong(status, "WorkerStatus.incarnation");
  status = Announced();
  status.set_address("a:0");
  ExpectWrong(status, "WorkerStatus.address");
}

}  // namespace
}  // namespace quire
