#include "coordinator/registry/etcd_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/etcd/announcement.h"
#include "tests/coordinator/in_process_cluster.h"
#include "tests/fakes/fake_etcd.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class EtcdRegistryTest : public testing::Test {
 protected:
  static constexpr int64_t kForget = 1'000;

  EtcdRegistryTest()
      : network_(ModelFiles{{"config.json", "{}"}}),
        coordinator_(&network_, {.forget_micros = kForget}) {}
  ~EtcdRegistryTest() override { registry_.Stop(); }

  static std::string Key(const std::string& name) { return WorkerKey("/q", name); }
  static std::string Value(const std::string& name, const std::string& address,
                           const std::string& incarnation = "1") {
    worker::v1::WorkerStatus status;
    status.set_address(address);
    status.set_incarnation(incarnation);
    status.mutable_worker()->set_name(name);
    return EncodeAnnouncement(status, "");
  }
  void Announce(const std::string& name, const std::string& address,
                const std::string& incarnation = "1") {
    store_.Put(Key(name), {Value(name, address, incarnation)});
  }
  // A worker that runs and is announced.
  void StartWorker(const std::string& name, const std::string& address) {
    network_.Start(address, {.name = name});
    Announce(name, address);
  }
  // Time goes on until all that is due has happened.
  void Read() {
    now_ += EtcdRegistry::kRelistMicros;
    registry_.Tick();
    etcd_.AnswerAll();
  }
  std::set<std::string> Addresses() {
    std::set<std::string> addresses;
    for (const WorkerView& view : coordinator_.registry().Views()) addresses.insert(view.address);
    return addresses;
  }
  void ExpectReady(size_t count) {
    size_t ready = 0;
    for (const WorkerView& view : coordinator_.registry().Views()) {
      ready += view.state == v1::WorkerLoad::READY ? 1 : 0;
    }
    EXPECT_EQ(ready, count);
  }

  FakeEtcdStore store_;
  FakeEtcd etcd_{&store_};
  int64_t now_ = 1'000'000;
  InProcessNetwork network_;
  InProcessCoordinator coordinator_;
  EtcdRegistry registry_{&etcd_, &coordinator_.registry(), {"/q", "", [this] { return now_; }}};
};

TEST_F(EtcdRegistryTest, ReadsEverythingThenWatches) {
  for (int i = 0; i < 3 * EtcdRegistry::kPageKeys; ++i) {
    Announce(absl::StrCat("w", i), absl::StrCat("a:", i + 1));
  }
  store_.Put("/q/workerz", {"beyond them"});
  StartWorker("one", "b:1");
  registry_.Tick();
  registry_.Tick();  // one reading at a time
  etcd_.AnswerAll();
  EXPECT_THAT(etcd_.calls(), ElementsAre("range", "range", "range", "range", "watch"));
  EXPECT_EQ(Addresses().size(), 3u * EtcdRegistry::kPageKeys + 1);
  coordinator_.WaitUntilReady(1);

  StartWorker("two", "b:2");
  etcd_.Notify();
  coordinator_.WaitUntilReady(2);
  etcd_.ForgetCalls();
  registry_.Tick();
  EXPECT_THAT(etcd_.calls(), IsEmpty()) << "nothing is due";
}

TEST_F(EtcdRegistryTest, AnAnnouncementThatIsGoneEjectsNobodyWhoAnswers) {
  StartWorker("one", "a:1");
  StartWorker("two", "a:2");
  StartWorker("three", "a:3");
  Read();
  coordinator_.WaitUntilReady(3);
  store_.Delete(Key("one"));
  etcd_.Notify();
  ExpectReady(3);
  store_.LoseEverything();
  Read();
  ExpectReady(3);
  EXPECT_TRUE(etcd_.is_watching());
  // A store that counts anew is read all the same.
  network_.Start("a:4", {.name = "four"});
  Announce("four", "a:4");
  Read();
  coordinator_.WaitUntilReady(4);
}

TEST_F(EtcdRegistryTest, TheLastViewServesWhileEtcdIsAway) {
  StartWorker("one", "a:1");
  Read();
  coordinator_.WaitUntilReady(1);
  etcd_.Fail(absl::UnavailableError("away"));
  etcd_.CutWatch();
  size_t switches = 0;
  for (int i = 0; i < 5; ++i) {
    now_ += EtcdRetryDelay(i);
    registry_.Tick();
    etcd_.AnswerAll();
    EXPECT_EQ(etcd_.num_switches(), ++switches) << "another member is asked";
    registry_.Tick();
    EXPECT_FALSE(etcd_.is_waiting()) << "it is not asked again at once";
    ExpectReady(1);
  }
  etcd_.Fail(absl::OkStatus());
  StartWorker("two", "a:2");
  Read();
  coordinator_.WaitUntilReady(2);
  EXPECT_TRUE(etcd_.is_watching());
}

TEST_F(EtcdRegistryTest, ACompactedWatchReadsEverythingAgain) {
  Read();
  ASSERT_TRUE(etcd_.is_watching());
  StartWorker("one", "a:1");
  store_.Compact();
  etcd_.Notify();
  EXPECT_FALSE(etcd_.is_watching());
  EXPECT_THAT(Addresses(), IsEmpty()) << "the event is lost";
  etcd_.ForgetCalls();
  for (int i = 0; i < 3; ++i) registry_.Tick();
  EXPECT_THAT(etcd_.calls(), IsEmpty()) << "not at once: it could happen for ever";
  now_ += EtcdRetryDelay(0);
  registry_.Tick();
  etcd_.AnswerAll();
  EXPECT_THAT(etcd_.calls(), ElementsAre("range", "watch"));
  coordinator_.WaitUntilReady(1);
}

TEST_F(EtcdRegistryTest, WatchesThatEndAgainAndAgainAreMadeEverLater) {
  Read();
  for (uint32_t failures = 0; failures < 6; ++failures) {
    etcd_.CutWatch();
    now_ += EtcdRetryDelay(failures) - 1;
    registry_.Tick();
    EXPECT_FALSE(etcd_.is_waiting());
    now_ += 1;
    registry_.Tick();
    etcd_.AnswerAll();
    ASSERT_TRUE(etcd_.is_watching());
  }
  // One that lives through a reading counts as good.
  Read();
  etcd_.CutWatch();
  now_ += EtcdRetryDelay(0);
  registry_.Tick();
  EXPECT_TRUE(etcd_.is_waiting());
}

TEST_F(EtcdRegistryTest, WhatAWatchTellsDuringAReadingIsNewer) {
  StartWorker("one", "a:1");
  StartWorker("old", "a:2");
  Read();
  coordinator_.WaitUntilReady(2);
  now_ += EtcdRegistry::kRelistMicros;
  registry_.Tick();
  StartWorker("new", "a:3");
  store_.Delete(Key("old"));
  etcd_.Notify();
  // The answer is of a moment before all that.
  store_.LoseEverything();
  Announce("one", "a:1");
  Announce("old", "a:2");
  etcd_.AnswerAll();
  coordinator_.WaitUntilReady(2);
  // Of those that are gone the listed ones stay.
  coordinator_.WaitUntilReady(3);
  for (const char* address : {"a:1", "a:2", "a:3"}) network_.Kill(address);
  while (Addresses().size() == 3) {
    coordinator_.WaitForTick();
    coordinator_.registry().Tick();
  }
  EXPECT_THAT(Addresses(), UnorderedElementsAre("a:1", "a:3"));
}

TEST_F(EtcdRegistryTest, IsForgottenWhenBothItsKeyAndItsSessionAreGone) {
  StartWorker("one", "a:1");
  StartWorker("two", "a:2");
  StartWorker("three", "a:3");
  Read();
  coordinator_.WaitUntilReady(3);
  WorkerRegistry& workers = coordinator_.registry();
  workers.Tick();
  network_.Kill("a:1");       // session alone
  store_.Delete(Key("two"));  // key alone
  network_.Kill("a:3");
  store_.Delete(Key("three"));
  etcd_.Notify();
  // More than kForget later.
  while (Addresses().contains("a:3")) {
    coordinator_.WaitForTick();
    workers.Tick();
  }
  EXPECT_THAT(Addresses(), UnorderedElementsAre("a:1", "a:2"));
  ExpectReady(1);
  // A key of the same worker under another name keeps it as well.
  store_.Put(Key("1"), {Value("1", "a:1")});
  store_.Delete(Key("one"));
  etcd_.Notify();
  workers.Tick();
  EXPECT_TRUE(Addresses().contains("a:1"));
  store_.Delete(Key("1"));
  etcd_.Notify();
  workers.Tick();
  EXPECT_THAT(Addresses(), ElementsAre("a:2"));
}

TEST_F(EtcdRegistryTest, AnOldAnnouncementDisturbsNobodyWhoAnswers) {
  // The name and the address of a worker that runs, by processes before it.
  network_.Start("a:1", {.name = "one", .incarnation = "2"});
  coordinator_.registry().AddStatic("a:1");
  coordinator_.WaitUntilReady(1);
  Announce("one", "a:9", "1");
  store_.Put(Key("other"), {Value("other", "a:1", "0")});
  Read();
  Read();
  ExpectReady(1);
  EXPECT_THAT(Addresses(), UnorderedElementsAre("a:1", "a:9")) << "a:9 is tried, and is not there";
}

TEST_F(EtcdRegistryTest, ANewerProcessTakesItsNameOnceTheOneBeforeItIsGone) {
  StartWorker("one", "a:1");
  Read();
  coordinator_.WaitUntilReady(1);
  network_.Start("b:1", {.name = "one", .incarnation = "2"});
  Announce("one", "b:1", "2");
  etcd_.Notify();
  EXPECT_THAT(Addresses(), UnorderedElementsAre("a:1", "b:1"));
  ExpectReady(1);
  network_.Kill("a:1");
  while (Addresses() != std::set<std::string>{"b:1"}) coordinator_.WaitForTick();
  coordinator_.WaitUntilReady(1);
}

TEST_F(EtcdRegistryTest, WhatIsNoAnnouncementIsLeftAlone) {
  StartWorker("one", "a:1");
  store_.Put(Key("noise"), {"\xff\xfe noise"});
  store_.Put(Key("empty"), {""});
  store_.Put(Key("large"), {std::string(kMaxAnnouncementBytes + 1, 'x')});
  store_.Put(Key(std::string(kMaxWorkerKeyBytes, 'k')), {Value("k", "a:2")});
  store_.Put(Key("nowhere"), {Value("nowhere", "no address")});
  store_.Put(Key("port"), {Value("port", "a:0")});
  store_.Put(Key("nobody"), {Value("", "a:3")});
  store_.Put(Key("thief"), {Value("one", "a:4")});
  store_.Put(Key("no incarnation"), {Value("no incarnation", "a:5", "")});
  Read();
  Read();
  EXPECT_THAT(Addresses(), ElementsAre("a:1"));
  // It takes a worker's announcement away, and no worker.
  coordinator_.WaitUntilReady(1);
  store_.Put(Key("one"), {"noise"});
  etcd_.Notify();
  ExpectReady(1);
}

TEST_F(EtcdRegistryTest, TakesNoMoreWorkersThanTheBound) {
  for (size_t i = 0; i <= WorkerRegistry::kMaxWorkers; ++i) {
    Announce(absl::StrCat("w", i), absl::StrCat("a:", i + 1));
  }
  Read();
  EXPECT_EQ(Addresses().size(), WorkerRegistry::kMaxWorkers);
}

TEST_F(EtcdRegistryTest, NothingHappensAfterStop) {
  registry_.Tick();
  registry_.Stop();
  EXPECT_FALSE(etcd_.is_waiting());
  now_ += EtcdRegistry::kRelistMicros;
  registry_.Tick();
  EXPECT_FALSE(etcd_.is_waiting());
}

TEST(AnnouncementTest, IsTakenWithTheTokenAlone) {
  worker::v1::WorkerStatus status;
  status.set_address("a:1");
  status.set_incarnation("1");
  status.mutable_worker()->set_name("one");
  const std::string key = WorkerKey("/q", "one");
  const std::string value = EncodeAnnouncement(status, "right token");
  EXPECT_EQ(DecodeAnnouncement(key, value, "/q", "right token")->address(), "a:1");
  EXPECT_TRUE(DecodeAnnouncement(key, value, "/q", "").ok());
  EXPECT_TRUE(absl::IsPermissionDenied(DecodeAnnouncement(key, value, "/q", "wrong").status()));
  const std::string unsigned_value = EncodeAnnouncement(status, "");
  EXPECT_TRUE(absl::IsPermissionDenied(
      DecodeAnnouncement(key, unsigned_value, "/q", "right token").status()));
  EXPECT_EQ(value.find("right token"), std::string::npos);
}

}  // namespace
}  // namespace quire
