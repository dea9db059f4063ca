// Simulations by seed.
//
//   simulation_test                     # seeds 1 to 10,000; to 1,000,000 with QUIRE_FULL;
//   QUIRE_SEEDS
//                                       # says how many, QUIRE_FIRST_SEED from where
//   simulation_test --seed=N [--trace]  # one, as it was; with what happened in it
//   simulation_test --traces=N          # a line of each of seeds 1 to N: what it did, as a number
#include "tests/simulation/simulation.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace quire {
namespace {

#ifdef QUIRE_SIMULATION_FEW
constexpr uint64_t kSeeds = 300;
#else
constexpr uint64_t kSeeds = 10'000;
#endif

char running_seed[64];

// A CHECK that fails says where; this says in which seed.
void OnAbort(int) {
  [[maybe_unused]] const auto written = write(2, running_seed, strlen(running_seed));
  std::signal(SIGABRT, SIG_DFL);
}

Simulation::Result RunSeed(uint64_t seed, bool prints, SimCounts* counts) {
  std::snprintf(running_seed, sizeof running_seed, "in seed %llu\n",
                static_cast<unsigned long long>(seed));
  return Simulation(seed, prints).Run(counts);
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(SimulationTest, EveryRequestGetsItsTokensAndLeavesNothing) {
  SimCounts counts;
  const auto started = std::chrono::steady_clock::now();
  const uint64_t num_seeds =
      FromEnvironment("QUIRE_SEEDS", std::getenv("QUIRE_FULL") == nullptr ? kSeeds : 100 * kSeeds);
  const uint64_t first_seed = FromEnvironment("QUIRE_FIRST_SEED", 1);
  int num_failures = 0;
  for (uint64_t seed = first_seed; seed < first_seed + num_seeds && num_failures < 10; ++seed) {
    const Simulation::Result result = RunSeed(seed, false, &counts);
    if (result.failure.empty()) continue;
    ++num_failures;
    ADD_FAILURE() << "seed " << seed << ": " << result.failure;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  std::string line;
  for (const auto& [name, count] : counts) line += ", " + std::to_string(count) + " " + name;
  std::printf("summary: %llu simulations in %.1f s%s\n", static_cast<unsigned long long>(num_seeds),
              took.count(), line.c_str());
  if (num_seeds < 200 || num_failures > 0) return;
  for (const char* fault : {"worker crashes",
                            "worker pauses",
                            "slow engines",
                            "coordinator crashes",
                            "coordinator pauses",
                            "worker drains",
                            "coordinator drains",
                            "cut sessions",
                            "half-open sessions",
                            "black holes",
                            "cut client connections",
                            "migrations",
                            "preemptions",
                            "resumed streams",
                            "cancelled requests",
                            "stop strings",
                            "prefix hits (tokens)",
                            "poisoned workers",
                            "quarantined requests",
                            "ended ABORTED",
                            "ended CANCELLED",
                            "ended DEADLINE_EXCEEDED",
                            "ended RESOURCE_EXHAUSTED",
                            "ended OK"}) {
    EXPECT_GT(counts[fault], 0u) << fault;
  }
}

std::string TraceOf(uint64_t seed) {
  SimCounts counts;
  const Simulation::Result result = RunSeed(seed, false, &counts);
  char text[80];
  std::snprintf(text, sizeof text, "seed %llu: %lld events, trace %016llx\n",
                static_cast<unsigned long long>(seed), static_cast<long long>(result.num_events),
                static_cast<unsigned long long>(result.trace_hash));
  return text;
}

// In another process, whose addresses are others: nothing may depend on where things lie.
TEST(SimulationTest, ASeedTakesTheSameStepsInAnotherProcess) {
  const uint64_t num_seeds = kSeeds / 10;
  char self[PATH_MAX + 1] = {};
  ASSERT_GT(readlink("/proc/self/exe", self, PATH_MAX), 0);
  const std::string command = "'" + std::string(self) + "' --traces=" + std::to_string(num_seeds);
  FILE* const other = popen(command.c_str(), "r");
  ASSERT_NE(other, nullptr);
  char line[80];
  uint64_t seed = 0;
  while (std::fgets(line, sizeof line, other) != nullptr) EXPECT_EQ(line, TraceOf(++seed));
  EXPECT_EQ(pclose(other), 0);
  EXPECT_EQ(seed, num_seeds);
}

int RunOne(uint64_t seed, bool prints) {
  SimCounts counts;
  const Simulation::Result result = RunSeed(seed, prints, &counts);
  for (const auto& [name, count] : counts) {
    std::printf("%8llu %s\n", static_cast<unsigned long long>(count), name.c_str());
  }
  std::printf("seed %llu, trace %016llx: %s\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(result.trace_hash),
              result.failure.empty() ? "passed" : result.failure.c_str());
  return result.failure.empty() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  spdlog::set_level(spdlog::level::off);
  std::signal(SIGABRT, quire::OnAbort);
  bool prints = false;
  const char* seed = nullptr;
  uint64_t num_traces = 0;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--trace") == 0) prints = true;
    if (strncmp(argv[i], "--seed=", 7) == 0) seed = argv[i] + 7;
    if (strncmp(argv[i], "--traces=", 9) == 0) num_traces = std::strtoull(argv[i] + 9, nullptr, 10);
  }
  if (seed != nullptr) return quire::RunOne(std::strtoull(seed, nullptr, 10), prints);
  for (uint64_t i = 1; i <= num_traces; ++i) std::fputs(quire::TraceOf(i).c_str(), stdout);
  return num_traces > 0 ? 0 : RUN_ALL_TESTS();
}
