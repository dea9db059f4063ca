#include "scheduler/batch/fair_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace quire {
namespace {

// The paper's algorithm 2, word for word and without forgetting, at one priority and equal weights.
class NaiveCounters {
 public:
  void Enter(const std::string& tenant) {
    if (waiting_[tenant] == 0) {
      std::optional<uint64_t> least;
      for (const auto& [other, count] : waiting_) {
        if (count > 0) least = std::min(least.value_or(counters_[other]), counters_[other]);
      }
      counters_[tenant] = std::max(counters_[tenant], least.value_or(counters_[last_]));
    }
    ++waiting_[tenant];
  }
  void LeaveQueue(const std::string& tenant) {
    if (--waiting_[tenant] == 0) last_ = tenant;
  }
  void Charge(const std::string& tenant, uint64_t cost) { counters_[tenant] += cost; }
  uint64_t counter(const std::string& tenant) { return counters_[tenant]; }

 private:
  std::map<std::string, uint64_t> counters_;
  std::map<std::string, uint32_t> waiting_;
  std::string last_;
};

struct Work {
  std::string tenant;
  FairShare::Account* account = nullptr;
  bool runs = false;
};

// Counters of the two differ by a constant, if by anything: what the naive one starts from is no
// matter.
void ExpectSameDifferences(const std::vector<Work>& works, NaiveCounters* naive, uint64_t unit) {
  std::optional<int64_t> offset;
  for (const Work& work : works) {
    const auto difference = static_cast<int64_t>(work.account->counter) -
                            static_cast<int64_t>(naive->counter(work.tenant) * unit);
    if (!offset.has_value()) offset = difference;
    ASSERT_EQ(difference, *offset) << work.tenant;
  }
}

TEST(FairShareTest, CountsAsThePaperDoesThoughItForgets) {
  // What a token of cost 1 adds.
  FairShare probe;
  FairShare::Account* account = probe.Enter(0, "");
  probe.LetIn(account, 1);
  const uint64_t unit = account->counter;

  size_t most_accounts = 0;
  size_t num_tenants = 0;
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    FairShare shares;
    NaiveCounters naive;
    std::vector<Work> works;
    std::vector<bool> seen(40);
    for (int i = 0; i < 4000; ++i) {
      const uint32_t choice = random() % 8;
      if (works.empty() || (choice < 2 && works.size() < 30)) {
        // A few tenants that stay, and many that come and go.
        const uint32_t number = random() % 2 == 0 ? random() % 3 : random() % 40;
        seen[number] = true;
        Work work{"t" + std::to_string(number)};
        naive.Enter(work.tenant);
        work.account = shares.Enter(0, work.tenant);
        works.push_back(work);
      } else {
        const size_t index = random() % works.size();
        Work& work = works[index];
        if (!work.runs && choice < 6) {
          const uint32_t tokens = random() % 100;
          naive.LeaveQueue(work.tenant);
          naive.Charge(work.tenant, tokens);
          shares.LetIn(work.account, tokens);
          work.runs = true;
        } else if (work.runs && choice < 7) {
          naive.Charge(work.tenant, 2);
          shares.ChargeOutput(work.account, 1);
        } else {
          if (!work.runs) naive.LeaveQueue(work.tenant);
          shares.Leave(work.account, work.runs);
          works.erase(works.begin() + static_cast<ptrdiff_t>(index));
        }
      }
      ExpectSameDifferences(works, &naive, unit);
      if (HasFatalFailure()) return;
      most_accounts = std::max(most_accounts, shares.num_accounts());
    }
    num_tenants = std::max<size_t>(num_tenants, std::count(seen.begin(), seen.end(), true));
    for (const Work& work : works) shares.Leave(work.account, work.runs);
  }
  EXPECT_EQ(num_tenants, 40u);
}

TEST(FairShareTest, ForgetsTenantsThatOweNothing) {
  FairShare shares;
  FairShare::Account* busy = shares.Enter(0, "busy");
  for (int i = 0; i < 1000; ++i) {
    FairShare::Account* other = shares.Enter(0, "t" + std::to_string(i));
    shares.Leave(other, /*was_let_in=*/false);
    EXPECT_EQ(shares.num_accounts(), 1u);
  }
  // One that is ahead of those who wait is remembered, for it is to wait its turn when it comes
  // back.
  FairShare::Account* ahead = shares.Enter(0, "ahead");
  shares.LetIn(ahead, 100);
  const uint64_t counter = ahead->counter;
  shares.Leave(ahead, /*was_let_in=*/true);
  EXPECT_EQ(shares.num_accounts(), 2u);
  EXPECT_EQ(shares.Enter(0, "ahead")->counter, counter);
  EXPECT_LT(busy->counter, counter);
}

TEST(FairShareTest, RemembersABoundedNumberOfTenants) {
  FairShare shares;
  FairShare::Account* busy = shares.Enter(0, "busy");
  for (int i = 0; i < 2000; ++i) {
    FairShare::Account* other = shares.Enter(0, "t" + std::to_string(i));
    shares.LetIn(other, 1 + i);
    shares.Leave(other, /*was_let_in=*/true);
    EXPECT_LE(shares.num_accounts(), FairShare::kMaxIdle + 1);
  }
  shares.Leave(busy, /*was_let_in=*/false);
}

TEST(FairShareTest, PrioritiesAreApart) {
  FairShare shares;
  FairShare::Account* low = shares.Enter(-1, "a");
  FairShare::Account* high = shares.Enter(1, "a");
  shares.LetIn(high, 1000);
  EXPECT_EQ(low->counter, 0u);
  // A newcomer is lifted to those of its priority.
  shares.Enter(1, "a");
  EXPECT_EQ(shares.Enter(1, "b")->counter, high->counter);
  EXPECT_EQ(shares.Enter(-1, "b")->counter, 0u);
}

}  // namespace
}  // namespace quire
