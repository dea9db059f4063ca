#include "worker/rpc/etcd_announcer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/etcd/announcement.h"
#include "tests/fakes/fake_etcd.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class EtcdAnnouncerTest : public testing::Test {
 protected:
  EtcdAnnouncer::Options Options(const std::string& incarnation) {
    worker::v1::WorkerStatus status;
    status.set_address("a:1");
    status.set_incarnation(incarnation);
    status.mutable_worker()->set_name("one");
    return {"/q", status, 9, "", [this] { return now_; }};
  }
  // The next third of the lease's life.
  void Beat(EtcdAnnouncer* announcer, FakeEtcd* etcd) {
    now_ += 3'000'000;
    Settle(announcer, etcd);
  }
  // All that is due now.
  static void Settle(EtcdAnnouncer* announcer, FakeEtcd* etcd) {
    do {
      announcer->Tick();
    } while (etcd->Answer());
  }
  void Beat() { Beat(&announcer_, &etcd_); }
  std::string Incarnation() {
    const auto found = store_.keys().find(key_);
    if (found == store_.keys().end()) return "";
    return DecodeAnnouncement(key_, found->second.bytes, "/q", "")->incarnation();
  }

  const std::string key_ = WorkerKey("/q", "one");
  FakeEtcdStore store_;
  FakeEtcd etcd_{&store_};
  int64_t now_ = 1'000'000;
  EtcdAnnouncer announcer_{&etcd_, Options("1")};
};

TEST_F(EtcdAnnouncerTest, AnnouncesUnderALeaseAndRenewsIt) {
  Settle(&announcer_, &etcd_);
  EXPECT_THAT(etcd_.calls(), ElementsAre("grant", "put"));
  EXPECT_EQ(Incarnation(), "1");
  EXPECT_NE(store_.keys().at(key_).lease, 0);
  etcd_.ForgetCalls();
  announcer_.Tick();
  EXPECT_THAT(etcd_.calls(), IsEmpty()) << "nothing is due";
  const int64_t revision = store_.revision();
  for (int i = 0; i < 3; ++i) Beat();
  EXPECT_THAT(etcd_.calls(),
              ElementsAre("keepalive", "range", "keepalive", "range", "keepalive", "range"));
  EXPECT_EQ(store_.revision(), revision) << "watches are told nothing of it";
}

TEST_F(EtcdAnnouncerTest, ALeaseThatIsLostIsGrantedAnew) {
  Settle(&announcer_, &etcd_);
  store_.Revoke(store_.keys().at(key_).lease);
  EXPECT_EQ(Incarnation(), "");
  Beat();
  EXPECT_EQ(Incarnation(), "1");
  store_.LoseEverything();
  Beat();
  EXPECT_EQ(Incarnation(), "1");
}

TEST_F(EtcdAnnouncerTest, ALeaseThatIsLostBeforeItsUseIsGrantedAnew) {
  announcer_.Tick();
  etcd_.Answer();
  store_.LoseEverything();
  Settle(&announcer_, &etcd_);
  EXPECT_EQ(Incarnation(), "1");
}

TEST_F(EtcdAnnouncerTest, AKeyThatIsGoneIsWrittenAnew) {
  Settle(&announcer_, &etcd_);
  store_.Delete(key_);
  Beat();
  EXPECT_EQ(Incarnation(), "1");
  store_.Put(key_, {"noise"});
  Beat();
  EXPECT_EQ(Incarnation(), "1");
}

TEST_F(EtcdAnnouncerTest, TriesForEverAndNotAllTheTime) {
  etcd_.Fail(absl::UnavailableError("away"));
  for (uint32_t failures = 0; failures < 20; ++failures) {
    announcer_.Tick();
    etcd_.Answer();
    EXPECT_EQ(etcd_.num_switches(), failures + 1) << "another member is asked";
    now_ += EtcdRetryDelay(failures) - 1;
    announcer_.Tick();
    EXPECT_FALSE(etcd_.is_waiting());
    now_ += 1;
  }
  EXPECT_LE(EtcdRetryDelay(1000), 2'000'000);
  etcd_.Fail(absl::OkStatus());
  Settle(&announcer_, &etcd_);
  EXPECT_EQ(Incarnation(), "1");
}

TEST_F(EtcdAnnouncerTest, ANameBelongsToTheProcessThatTookItLast) {
  Settle(&announcer_, &etcd_);
  FakeEtcd other_etcd(&store_);
  auto newer = std::make_unique<EtcdAnnouncer>(&other_etcd, Options("2"));
  Settle(newer.get(), &other_etcd);
  EXPECT_EQ(Incarnation(), "2");
  for (int i = 0; i < 3; ++i) Beat();
  EXPECT_EQ(Incarnation(), "2") << "the older one does not take it back";
  store_.Revoke(100);  // the older one's lease
  Beat();
  Beat();
  EXPECT_EQ(Incarnation(), "2");
  newer->Stop();
  EXPECT_EQ(Incarnation(), "");
  Beat();
  EXPECT_EQ(Incarnation(), "1") << "until it is free";
}

TEST_F(EtcdAnnouncerTest, StopTakesTheAnnouncementBack) {
  Settle(&announcer_, &etcd_);
  announcer_.Stop();
  EXPECT_THAT(store_.keys(), IsEmpty());
  announcer_.Tick();
  EXPECT_FALSE(etcd_.is_waiting());
}

TEST_F(EtcdAnnouncerTest, StopEndsThoughEtcdIsAway) {
  Settle(&announcer_, &etcd_);
  etcd_.Fail(absl::UnavailableError("away"));
  announcer_.Stop();
  EXPECT_EQ(Incarnation(), "1") << "the lease runs out by itself";
}

}  // namespace
}  // namespace quire
