#include "common/json_depth.h"

#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

TEST(JsonDepthTest, CountsOpenArraysAndObjects) {
  EXPECT_FALSE(IsNestedDeeperThan("", 0));
  EXPECT_FALSE(IsNestedDeeperThan("1", 0));
  EXPECT_TRUE(IsNestedDeeperThan("[]", 0));
  EXPECT_FALSE(IsNestedDeeperThan(R"([{"a": [1]}, [[2]], {}])", 3));
  EXPECT_TRUE(IsNestedDeeperThan(R"([{"a": [1]}, [[2]], {}])", 2));
}

TEST(JsonDepthTest, WhatStandsInAStringOpensNothing) {
  EXPECT_FALSE(IsNestedDeeperThan(R"(["[[[", "\"[[", "\\"])", 1));
  EXPECT_TRUE(IsNestedDeeperThan(R"(["\\", []])", 1));
}

TEST(JsonDepthTest, ItNeedsNoStack) {
  const size_t deep = 500'000;
  EXPECT_TRUE(IsNestedDeeperThan(std::string(deep, '[') + std::string(deep, ']'), deep - 1));
  EXPECT_FALSE(IsNestedDeeperThan(std::string(deep, '[') + std::string(deep, ']'), deep));
}

}  // namespace
}  // namespace quire
