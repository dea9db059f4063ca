#include "scheduler/batch/queue_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

uint32_t FillBy(const std::string& tenant, QueueGate* gate) {
  uint32_t entered = 0;
  while (gate->Enter(tenant, 1)) ++entered;
  return entered;
}

TEST(QueueGateTest, ASmallQueueIsWholeForAnyone) {
  QueueGate gate({.max_num_seqs = 1, .max_queue = 1});
  EXPECT_EQ(FillBy("", &gate), 2u);
  EXPECT_FALSE(gate.Enter("other", 1));
  gate.Leave("", 1, 0);
  EXPECT_TRUE(gate.Enter("other", 1));
}

TEST(QueueGateTest, NoTenantAloneFillsTheQueue) {
  QueueGate gate({.max_num_seqs = 10, .max_queue = 50});
  EXPECT_EQ(FillBy("greedy", &gate), 50u);  // 10 of the queue's places are kept
  EXPECT_THAT(gate.TenantsOverShare(8), ElementsAre("greedy"));
  EXPECT_EQ(FillBy("modest", &gate), 10u);
  EXPECT_THAT(gate.TenantsOverShare(8), ElementsAre("greedy", "modest"));
  EXPECT_THAT(gate.TenantsOverShare(1), ElementsAre("greedy"));
  // A place that becomes free is for the one that has less than its share, 60 / 3.
  gate.Leave("greedy", 1, 0);
  EXPECT_FALSE(gate.Enter("greedy", 1));
  EXPECT_TRUE(gate.Enter("modest", 1));
  gate.Leave("greedy", 40, 0);
  gate.Leave("modest", 11, 0);
  EXPECT_THAT(gate.TenantsOverShare(8), IsEmpty());
  EXPECT_EQ(gate.num_taken(), 9u);
}

TEST(QueueGateTest, SharesGoByWeight) {
  TenantWeights weights{{{"heavy", 3}}};
  QueueGate gate({.max_num_seqs = 0, .max_queue = 100, .weights = weights});
  EXPECT_TRUE(gate.Enter("light", 40));
  EXPECT_TRUE(gate.Enter("heavy", 40));
  EXPECT_FALSE(gate.Enter("light", 1));    // its share is 100 / 5
  EXPECT_EQ(FillBy("heavy", &gate), 20u);  // 300 / 5
}

TEST(QueueGateTest, ARequestComesInAsAWhole) {
  QueueGate gate({.max_num_seqs = 2, .max_queue = 1});
  EXPECT_FALSE(gate.Enter("", 4));
  EXPECT_TRUE(gate.Enter("", 2));
  EXPECT_FALSE(gate.Enter("", 2));
  EXPECT_TRUE(gate.Enter("", 1));
}

TEST(QueueGateTest, WithoutLimitsThereIsNoBound) {
  QueueGate gate({});
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(gate.Enter("", 8));
  EXPECT_THAT(gate.TenantsOverShare(8), IsEmpty());
}

TEST(FreeingRateTest, MeasuresOverTheLastEvents) {
  FreeingRate rate;
  EXPECT_EQ(rate.PerSecond(0), 0);
  rate.OnFreed(1'000'000, 5);
  EXPECT_EQ(rate.PerSecond(1'500'000), 0);  // over which time is unknown
  for (int i = 1; i <= 200; ++i) rate.OnFreed(1'000'000 + i * 100'000, 2);
  EXPECT_NEAR(rate.PerSecond(21'000'000), 20, 0.1);
  // 63 intervals of 0.1 s, and 6.3 s in which nothing ended.
  EXPECT_NEAR(rate.PerSecond(21'000'000 + 6'300'000), 10, 0.1);
}

TEST(FreeingRateTest, WhatEndsTogetherIsOneEvent) {
  FreeingRate rate;
  for (int second = 1; second <= 3; ++second) {
    for (int i = 0; i < 256; ++i) rate.OnFreed(second * 1'000'000, 1);
  }
  EXPECT_NEAR(rate.PerSecond(3'000'000), 256, 0.1);
}

TEST(RetryScheduleTest, SpreadsTheRefusedOverThePlacesThatBecomeFree) {
  RetrySchedule schedule;
  // 10 a second: a place each 100 ms.
  for (uint32_t i = 1; i <= 5; ++i) EXPECT_EQ(schedule.NextMs(0, 10, 100), 100 * i);
  EXPECT_EQ(schedule.NextMs(200'000, 10, 100), 400u);  // the sixth place
  // No longer than until all that is here has ended.
  for (int i = 0; i < 1000; ++i) schedule.NextMs(200'000, 10, 100);
  EXPECT_EQ(schedule.NextMs(200'000, 10, 100), 10'000u);
  EXPECT_EQ(schedule.NextMs(100'000'000, 10, 100), 100u);
}

TEST(RetryScheduleTest, HasALeastAndAMostDelay) {
  RetrySchedule schedule;
  EXPECT_EQ(schedule.NextMs(0, 0, 100), RetrySchedule::kUnknownMs);
  EXPECT_EQ(schedule.NextMs(0, 1000, 100), RetrySchedule::kLeastMs);
  EXPECT_EQ(schedule.NextMs(0, 1e-9, 100), RetrySchedule::kMostMs);
  EXPECT_EQ(schedule.NextMs(0, 1e-9, ~uint64_t{0}), RetrySchedule::kMostMs);
  EXPECT_EQ(schedule.NextMs(0, 1e12, ~uint64_t{0}), RetrySchedule::kMostMs);
}

}  // namespace
}  // namespace quire
