#include "coordinator/registry/worker_registry.h"

#include <gtest/gtest.h>
#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "tests/coordinator/in_process_cluster.h"

namespace quire {
namespace {

class WorkerRegistryTest : public testing::Test {
 protected:
  explicit WorkerRegistryTest(const InProcessCoordinator::Options& options = {})
      : network_(ModelFiles{{"config.json", R"({"eos_token_id": 2})"}}),
        coordinator_(&network_, options) {}

  WorkerView Only() {
    const std::vector<WorkerView> views = coordinator_.registry().Views();
    EXPECT_EQ(views.size(), 1u);
    return views.at(0);
  }

  void WaitForState(const std::string& name, v1::WorkerLoad::State state) {
    for (;;) {
      coordinator_.registry().Tick();
      for (const WorkerView& view : coordinator_.registry().Views()) {
        if (view.info.name() == name && view.state == state) return;
      }
      coordinator_.WaitForTick();
    }
  }

  // Waits until the reason that the worker at `address` is not taken holds `why`. False: it is.
  bool IsRefused(const std::string& address, const std::string& why) {
    for (;;) {
      for (const WorkerView& view : coordinator_.registry().Views()) {
        if (view.address != address) continue;
        if (view.is_open) return false;
        if (view.why.find(why) != std::string::npos) return true;
      }
      coordinator_.WaitForTick();
    }
  }

  InProcessNetwork network_;
  InProcessCoordinator coordinator_;
};

class SilentWorkerTest : public WorkerRegistryTest {
 protected:
  SilentWorkerTest() : WorkerRegistryTest({.silence_micros = WorkerLink::kSilenceMicros}) {}
};

TEST_F(WorkerRegistryTest, AStaticWorkerMayComeUpLater) {
  coordinator_.registry().AddStatic("a:1");
  EXPECT_EQ(Only().state, v1::WorkerLoad::STARTING);
  network_.Start("a:1", {.name = "one"});
  coordinator_.WaitUntilReady(1);
  EXPECT_EQ(Only().info.name(), "one");
  network_.Kill("a:1");
  while (Only().state != v1::WorkerLoad::DEAD) coordinator_.WaitForTick();
  network_.Start("a:1", {.name = "one", .incarnation = "2"});
  coordinator_.WaitUntilReady(1);
}

TEST_F(WorkerRegistryTest, AJoinedWorkerIsConnectedTo) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  EXPECT_EQ(Only().incarnation, "1");
}

TEST_F(WorkerRegistryTest, TheOlderOfTwoProcessesOfANameKeepsItWhileItAnswers) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  network_.Start("b:1", {.name = "one", .incarnation = "2"});
  const absl::Status refused = coordinator_.registry().Join("b:1", "2", "one");
  EXPECT_TRUE(absl::IsAlreadyExists(refused)) << refused;
  EXPECT_NE(refused.message().find("answers at a:1"), std::string::npos) << refused;
  EXPECT_EQ(Only().address, "a:1");

  // Where its session opens all the same, it waits for the name.
  EXPECT_TRUE(coordinator_.registry().List("b:1", "2", "one").ok());
  EXPECT_TRUE(IsRefused("b:1", "another process of the name one answers at a:1"));
  WaitForState("one", v1::WorkerLoad::READY);
  EXPECT_EQ(network_.num_fetches("a:1"), 1u) << "its session was not disturbed";
  network_.Kill("a:1");
  while (coordinator_.registry().Views().size() > 1) coordinator_.WaitForTick();
  coordinator_.WaitUntilReady(1);
  EXPECT_EQ(Only().incarnation, "2");
}

TEST_F(SilentWorkerTest, ANewProcessTakesTheNameOfOneThatIsSilent) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  network_.SetSilent("a:1", true);
  WaitForState("one", v1::WorkerLoad::SUSPECT);
  network_.Start("b:1", {.name = "one", .incarnation = "2"});
  EXPECT_TRUE(coordinator_.registry().Join("b:1", "2", "one").ok());
  while (coordinator_.registry().Views().size() > 1) coordinator_.WaitForTick();
  coordinator_.WaitUntilReady(1);
  EXPECT_EQ(Only().address, "b:1");
  // The one that it replaced lives on and says so: it stays out, as long as the new one answers.
  network_.SetSilent("a:1", false);
  EXPECT_TRUE(absl::IsAlreadyExists(coordinator_.registry().Join("a:1", "1", "one")));
  EXPECT_EQ(Only().address, "b:1");
  network_.Kill("b:1");
  WaitForState("one", v1::WorkerLoad::DEAD);
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
}

TEST_F(WorkerRegistryTest, AnAnnouncementAloneTakesNoName) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  EXPECT_TRUE(absl::IsAlreadyExists(coordinator_.registry().Join("nowhere:1", "evil", "one")));
  EXPECT_EQ(Only().state, v1::WorkerLoad::READY);
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  // Nor one that nobody has at the moment.
  network_.Kill("a:1");
  WaitForState("one", v1::WorkerLoad::DEAD);
  EXPECT_TRUE(coordinator_.registry().Join("nowhere:1", "evil", "one").ok());
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
}

TEST_F(WorkerRegistryTest, OfTwoThatOpenAtOnceOneHasTheName) {
  for (int round = 1; round <= 20; ++round) {
    const std::string one = absl::StrCat("a:", round), two = absl::StrCat("b:", round);
    const std::string name = absl::StrCat("w", round);
    network_.Start(one, {.name = name, .incarnation = "1"});
    network_.Start(two, {.name = name, .incarnation = "2"});
    coordinator_.registry().AddStatic(one);
    coordinator_.registry().AddStatic(two);
    coordinator_.WaitUntilReady(round);
    size_t num_open = 0;
    for (int i = 0; i < 3; ++i) coordinator_.WaitForTick();
    for (const WorkerView& view : coordinator_.registry().Views()) {
      num_open += view.is_open && view.info.name() == name ? 1 : 0;
    }
    EXPECT_EQ(num_open, 1u);
  }
}

TEST_F(SilentWorkerTest, ARestartOfOneThatIsSilentIsNoticedByItsAnnouncement) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  network_.SetSilent("a:1", true);
  network_.Start("a:1", {.name = "one", .incarnation = "2"});  // the old connection is still open
  while (!coordinator_.registry().Join("a:1", "2", "one").ok()) {
    coordinator_.WaitForTick();
    coordinator_.registry().Tick();
  }
  while (Only().incarnation != "2") coordinator_.WaitForTick();
  coordinator_.WaitUntilReady(1);
}

TEST_F(WorkerRegistryTest, AWorkerUnderTwoAddressesServesUnderOne) {
  network_.Start("a:1", {.name = "one"});
  network_.Alias("b:1", "a:1");
  coordinator_.registry().AddStatic("a:1");
  coordinator_.WaitUntilReady(1);
  coordinator_.registry().AddStatic("b:1");
  for (;;) {
    const std::vector<WorkerView> views = coordinator_.registry().Views();
    ASSERT_EQ(views.size(), 2u);
    EXPECT_EQ(views[0].state, v1::WorkerLoad::READY) << "the first session lives on";
    if (views[1].why.find("is known already at a:1") != std::string::npos) break;
    coordinator_.WaitForTick();
  }
}

TEST_F(WorkerRegistryTest, AnAnnouncementOfAnothersAddressDoesNotRestartItWhileItAnswers) {
  network_.Start("a:1", {.name = "one"});
  EXPECT_TRUE(coordinator_.registry().Join("a:1", "1", "one").ok());
  coordinator_.WaitUntilReady(1);
  for (const char* incarnation : {"stray", "stray", "another", "a third"}) {
    const absl::Status refused = coordinator_.registry().Join("a:1", incarnation, "two");
    EXPECT_TRUE(absl::IsAlreadyExists(refused)) << refused;
    EXPECT_NE(refused.message().find("--advertise-address"), std::string::npos);
    EXPECT_TRUE(absl::IsAlreadyExists(coordinator_.registry().Join("a:1", incarnation, "one")));
    EXPECT_EQ(Only().state, v1::WorkerLoad::READY);
  }
  EXPECT_EQ(network_.num_fetches("a:1"), 1u) << "a new session would have fetched the files again";
}

TEST_F(WorkerRegistryTest, DrainingShows) {
  network_.Start("a:1", {.name = "one"});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.WaitUntilReady(1);
  network_.Worker("a:1")->table().StartDraining();
  while (Only().state != v1::WorkerLoad::DRAINING) coordinator_.WaitForTick();
}

TEST_F(WorkerRegistryTest, NamesWhatExists) {
  EXPECT_TRUE(absl::IsUnavailable(coordinator_.placer().Resolve("", v1::PAGED, "").status()));
  network_.Start("a:1", {.name = "one"});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.WaitUntilReady(1);
  Placer& placer = coordinator_.placer();
  EXPECT_TRUE(placer.Resolve("", v1::ENGINE_UNSPECIFIED, "").ok());
  const absl::Status model = placer.Resolve("x", v1::PAGED, "").status();
  EXPECT_TRUE(absl::IsNotFound(model));
  EXPECT_EQ(model.message(), "there is no model \"x\"; there is: m");
  const absl::Status engine = placer.Resolve("m", v1::BASELINE, "").status();
  EXPECT_TRUE(absl::IsNotFound(engine));
  EXPECT_EQ(engine.message(), "there is no engine \"BASELINE\"; there is: PAGED");
  const absl::Status worker = placer.Resolve("m", v1::PAGED, "two").status();
  EXPECT_TRUE(absl::IsNotFound(worker));
  EXPECT_EQ(worker.message(), "there is no worker \"two\"; there is: one");
  network_.Kill("a:1");
  while (Only().state != v1::WorkerLoad::DEAD) coordinator_.WaitForTick();
  const absl::Status gone = placer.Resolve("m", v1::PAGED, "").status();
  EXPECT_TRUE(absl::IsUnavailable(gone)) << gone;
  EXPECT_TRUE(RetryDelayOf(gone).has_value());
}

TEST_F(WorkerRegistryTest, AnUnsetModelIsTheOneThatIsServed) {
  network_.Start("a:1", {.name = "one"});
  network_.Start("b:1", {.name = "two", .model = "n"});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.registry().AddStatic("b:1");
  coordinator_.WaitUntilReady(2);
  Placer& placer = coordinator_.placer();
  const absl::Status both = placer.Resolve("", v1::PAGED, "").status();
  EXPECT_TRUE(absl::IsInvalidArgument(both)) << both;
  EXPECT_NE(both.message().find("m, n"), std::string::npos) << both;
  EXPECT_EQ(placer.Resolve("", v1::PAGED, "two")->model->name(), "n");

  network_.Kill("b:1");
  WaitForState("two", v1::WorkerLoad::DEAD);
  const auto left = placer.Resolve("", v1::PAGED, "");
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(left->model->name(), "m");
  EXPECT_TRUE(absl::IsUnavailable(placer.Resolve("n", v1::PAGED, "").status()));
  // While none is served, those that were are named.
  network_.Kill("a:1");
  WaitForState("one", v1::WorkerLoad::DEAD);
  EXPECT_TRUE(absl::IsInvalidArgument(placer.Resolve("", v1::PAGED, "").status()));
}

TEST_F(WorkerRegistryTest, WhatFitsAWorkerThatIsAwayIsNotRefusedForEver) {
  network_.Start("a:1", {.name = "small", .num_blocks = 8});
  network_.Start("b:1", {.name = "large", .num_blocks = 256});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.registry().AddStatic("b:1");
  coordinator_.WaitUntilReady(2);
  const std::vector<uint32_t> prompt = {1, 2, 3};
  Placement placement;
  placement.model = "m";
  placement.prompt = &prompt;
  placement.max_new_tokens = 100;
  const auto placed = coordinator_.placer().Place(placement);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ((*placed)->View().info.name(), "large");

  Placement again = placement;
  again.refused = {(*placed)->number()};
  EXPECT_TRUE(absl::IsResourceExhausted(coordinator_.placer().Place(again).status()));
  network_.Kill("b:1");
  WaitForState("large", v1::WorkerLoad::DEAD);
  const absl::Status away = coordinator_.placer().Place(placement).status();
  EXPECT_TRUE(absl::IsUnavailable(away)) << away;
  EXPECT_TRUE(RetryDelayOf(away).has_value());
  placement.max_new_tokens = 2000;
  EXPECT_TRUE(absl::IsFailedPrecondition(coordinator_.placer().Place(placement).status()));
}

TEST_F(WorkerRegistryTest, AWorkerThatNeverSendsItsFilesDoesNotHoldUpTheEnd) {
  network_.SetFiles("a:1", std::nullopt);
  network_.Start("a:1", {.name = "one"});
  coordinator_.registry().AddStatic("a:1");
  while (network_.num_fetches("a:1") == 0) coordinator_.WaitForTick();
  coordinator_.registry().Shutdown();
  EXPECT_EQ(network_.num_fetches("a:1"), 1u);
}

TEST_F(WorkerRegistryTest, FilesThatCannotBeUsedAreFetchedAgainEverLater) {
  EXPECT_EQ(WorkerLink::ReloadDelay(1), WorkerLink::kFirstReloadMicros);
  EXPECT_EQ(WorkerLink::ReloadDelay(3), 4 * WorkerLink::kFirstReloadMicros);
  EXPECT_EQ(WorkerLink::ReloadDelay(1'000'000), WorkerLink::kLastReloadMicros);

  network_.SetFiles("a:1", ModelFiles{{"config.json", "{"}});
  network_.Start("a:1", {.name = "one"});
  coordinator_.registry().AddStatic("a:1");
  while (Only().why.find("config.json") == std::string::npos) coordinator_.WaitForTick();
  network_.SetFiles("a:1", ModelFiles{{"config.json", "{}"}});
  coordinator_.WaitUntilReady(1);
  EXPECT_GE(network_.num_fetches("a:1"), 2u);
}

TEST_F(WorkerRegistryTest, AWorkerWithOtherFilesWaitsForTheNameWithoutSendingThemAgain) {
  network_.Start("a:1", {.name = "one"});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.WaitUntilReady(1);
  network_.SetFiles("b:1", ModelFiles{{"config.json", "{}"}});
  network_.Start("b:1", {.name = "two"});
  coordinator_.registry().AddStatic("b:1");
  const auto why = [this] { return coordinator_.registry().Views().at(1).why; };
  while (why().find("config.json differs") == std::string::npos) coordinator_.WaitForTick();
  // Through some of the link's retries.
  const int64_t until = SteadyMicros() + 3 * WorkerLink::kRetryMicros;
  while (SteadyMicros() < until) coordinator_.WaitForTick();
  EXPECT_EQ(network_.num_fetches("b:1"), 1u);
  network_.Kill("a:1");
  WaitForState("two", v1::WorkerLoad::READY);
}

TEST_F(WorkerRegistryTest, AModelThatComesBackIsNotMadeAgain) {
  ModelCatalog catalog(ServedModel::Options{});
  const ModelFiles files = {{"config.json", "{}"}};
  auto model = catalog.Acquire("m", files);
  ASSERT_TRUE(model.ok());
  const ServedModel* const first = model->get();
  const ModelFiles others = {{"config.json", R"({"eos_token_id": 2})"}};
  EXPECT_TRUE(absl::IsFailedPrecondition(catalog.Acquire("m", others).status()));
  EXPECT_TRUE(catalog.IsTaken("m", FilesDigest(others)));
  EXPECT_FALSE(catalog.IsTaken("m", FilesDigest(files)));
  model->reset();
  EXPECT_FALSE(catalog.IsTaken("m", FilesDigest(others)));
  EXPECT_EQ(catalog.Acquire("m", files)->get(), first);
  EXPECT_NE(catalog.Acquire("m", others)->get(), first) << "other files may take the name";
}

}  // namespace
}  // namespace quire
