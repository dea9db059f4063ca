#ifndef QUIRE_SCHEDULER_BATCH_FAIR_SHARE_H_
#define QUIRE_SCHEDULER_BATCH_FAIR_SHARE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "scheduler/tenant_weights.h"

namespace quire {

// Who of the tenants is to be served next, by virtual token counters (Sheng et al., "Fairness in
// Serving Large Language Models", OSDI 2024, algorithm 2).
//
// Each tenant has a counter of the service it got, in tokens: kInputCost for one of a prompt that
// was computed, kOutputCost for one that was generated (the paper's 1 and 2), divided by its
// weight. The tenant with the least counter is next. One that comes to the queue anew is lifted to
// the least counter of those that wait there, or, if none does, to that of the tenant that left the
// queue last: who was idle has no claim to what it did not ask for. So while two tenants have
// requests waiting, the service they get differs by no more than a bound that the sizes of requests
// and of the batch set, whatever either of them sends.
//
// Counters of each priority are apart: fairness holds among requests of equal priority.
//
// A tenant without requests is forgotten once its counter would be lifted anyway, which changes
// nothing; else the kMaxIdle of a priority that owe the most are remembered. Not thread safe.
class FairShare {
 public:
  static constexpr uint64_t kInputCost = 1;
  static constexpr uint64_t kOutputCost = 2;
  static constexpr size_t kMaxIdle = 256;

  // A tenant's counter at one priority.
  struct Account {
    std::string tenant;
    int32_t priority = 0;
    uint32_t weight = 1;
    uint64_t counter = 0;  // of kUnit / weight a token of cost 1
    uint32_t num_waiting = 0;
    uint32_t num_let_in = 0;  // and not ended
  };

  explicit FairShare(TenantWeights weights = {}) : weights_(std::move(weights)) {}

  // A sequence begins to wait. The account lives until it leaves.
  Account* Enter(int32_t priority, const std::string& tenant);
  // A waiting sequence begins to run for the first time, and so many tokens of its prompt are to be
  // computed. What is computed again later, after a preemption, was not the tenant's wish and is
  // not charged.
  void LetIn(Account* account, uint32_t num_input_tokens);
  void ChargeOutput(Account* account, uint32_t num_tokens) {
    account->counter += num_tokens * kOutputCost * (kUnit / account->weight);
  }
  // A sequence has ended, or is given up.
  void Leave(Account* account, bool was_let_in);

  size_t num_accounts() const;

 private:
  // Divisible by every weight up to 16; for larger ones the error is below 0.2%. At 100,000 tokens
  // a second the counters last for 4 years.
  static constexpr uint64_t kUnit = 720'720;

  struct Priority {
    std::map<std::string, std::unique_ptr<Account>> accounts;
    // Those without requests, by counter.
    std::set<std::pair<uint64_t, std::string>> idle;
    // The tenant that left the queue last; null once it is forgotten, and then `floor` is its
    // counter.
    const Account* last = nullptr;
    uint64_t floor = 0;
  };
  // What a counter that comes to the queue is lifted to. Never falls.
  static uint64_t FloorOf(const Priority& priority);
  void LeaveQueue(Priority* priority, Account* account);
  void ForgetIdle(Priority* priority);

  const TenantWeights weights_;
  std::map<int32_t, Priority> priorities_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_FAIR_SHARE_H_
