#include "clients/cli/compare_variant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

void AddWorker(v1::GetLoadResponse* load, const std::string& name, v1::Engine engine,
               const std::string& kv_cache, const std::string& dtype,
               v1::WorkerLoad::State state = v1::WorkerLoad::READY) {
  v1::WorkerLoad* worker = load->add_workers();
  worker->set_name(name);
  worker->set_model("m");
  worker->set_engine(engine);
  worker->set_kv_cache(kv_cache);
  worker->set_dtype(dtype);
  worker->set_state(state);
}

std::vector<std::string> Names(const std::vector<CompareVariant>& variants) {
  std::vector<std::string> names;
  for (const CompareVariant& variant : variants) {
    names.push_back(absl::StrCat(variant.engine, "/", variant.dtype, "@", variant.worker));
  }
  return names;
}

TEST(FindVariants, OrdersTheReferenceFirstAndFp32BeforeOthers) {
  v1::GetLoadResponse load;
  AddWorker(&load, "p16", v1::PAGED, "", "bf16");
  AddWorker(&load, "p32", v1::PAGED, "", "fp32");
  AddWorker(&load, "bs", v1::BASELINE, "static", "fp32");
  AddWorker(&load, "bd", v1::BASELINE, "dynamic", "fp32");
  AddWorker(&load, "hf", v1::HF_REFERENCE, "dynamic", "fp32");
  const auto variants = FindVariants(load, "m");
  EXPECT_THAT(Names(variants),
              ElementsAre("hf/fp32@hf", "baseline-dynamic/fp32@bd", "baseline-static/fp32@bs",
                          "paged/fp32@p32", "paged/bf16@p16"));
  EXPECT_TRUE(variants[0].is_reference());
  EXPECT_FALSE(variants[0].runs_together());
  EXPECT_TRUE(variants[4].runs_together());
}

TEST(FindVariants, LeavesOutWhatIsNotReadyOrOfAnotherModel) {
  v1::GetLoadResponse load;
  AddWorker(&load, "dead", v1::PAGED, "", "fp32", v1::WorkerLoad::DEAD);
  AddWorker(&load, "ready", v1::PAGED, "", "bf16");
  EXPECT_THAT(Names(FindVariants(load, "m")), ElementsAre("paged/bf16@ready"));
  EXPECT_TRUE(FindVariants(load, "other").empty());
}

TEST(FindVariants, TheFirstNameStandsForItsVariant) {
  v1::GetLoadResponse load;
  AddWorker(&load, "b", v1::PAGED, "", "fp32");
  AddWorker(&load, "a", v1::PAGED, "", "fp32");
  EXPECT_THAT(Names(FindVariants(load, "m")), ElementsAre("paged/fp32@a"));
}

}  // namespace
}  // namespace quire
