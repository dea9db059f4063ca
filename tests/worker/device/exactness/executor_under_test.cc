#include "tests/worker/device/exactness/executor_under_test.h"

#include <cstdlib>
#include <iostream>

namespace quire {
namespace {

void MustBeOk(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << std::endl;
  std::abort();
}

}  // namespace

void ExecutorUnderTest::Launch(const StepPlan& plan) { MustBeOk(executor().Launch(plan)); }

void ExecutorUnderTest::Collect(StepResult* result) { MustBeOk(executor().Collect(result)); }

}  // namespace quire
