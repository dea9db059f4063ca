#include "scheduler/batch/fair_share.h"

#include <algorithm>
#include <optional>

#include "scheduler/check.h"

namespace quire {

FairShare::Account* FairShare::Enter(int32_t priority, const std::string& tenant) {
  Priority& peers = priorities_[priority];
  std::unique_ptr<Account>& account = peers.accounts[tenant];
  if (account == nullptr) {
    account = std::make_unique<Account>();
    account->tenant = tenant;
    account->priority = priority;
    account->weight = weights_.Of(tenant);
  } else if (account->num_waiting == 0 && account->num_let_in == 0) {
    peers.idle.erase({account->counter, tenant});
  }
  if (account->num_waiting == 0) account->counter = std::max(account->counter, FloorOf(peers));
  ++account->num_waiting;
  return account.get();
}

void FairShare::LetIn(Account* account, uint32_t num_input_tokens) {
  QUIRE_CHECK(account->num_waiting > 0);
  LeaveQueue(&priorities_.at(account->priority), account);
  ++account->num_let_in;
  account->counter += num_input_tokens * kInputCost * (kUnit / account->weight);
}

void FairShare::Leave(Account* account, bool was_let_in) {
  const int32_t priority = account->priority;
  Priority& peers = priorities_.at(priority);
  if (was_let_in) {
    QUIRE_CHECK(account->num_let_in > 0);
    --account->num_let_in;
  } else {
    QUIRE_CHECK(account->num_waiting > 0);
    LeaveQueue(&peers, account);
  }
  if (account->num_waiting > 0 || account->num_let_in > 0) return;
  peers.idle.insert({account->counter, account->tenant});
  ForgetIdle(&peers);
  // Counters mean something beside each other only.
  if (peers.accounts.empty()) priorities_.erase(priority);
}

void FairShare::LeaveQueue(Priority* priority, Account* account) {
  if (--account->num_waiting > 0) return;
  priority->last = account;
}

uint64_t FairShare::FloorOf(const Priority& priority) {
  std::optional<uint64_t> least;
  for (const auto& [tenant, account] : priority.accounts) {
    if (account->num_waiting > 0)
      least = std::min(least.value_or(account->counter), account->counter);
  }
  const uint64_t left = priority.last != nullptr ? priority.last->counter : priority.floor;
  return least.value_or(left);
}

void FairShare::ForgetIdle(Priority* priority) {
  const uint64_t floor = FloorOf(*priority);
  while (!priority->idle.empty() &&
         (priority->idle.begin()->first <= floor || priority->idle.size() > kMaxIdle)) {
    const auto found = priority->accounts.find(priority->idle.begin()->second);
    if (priority->last == found->second.get()) {
      priority->floor = found->second->counter;
      priority->last = nullptr;
    }
    priority->accounts.erase(found);
    priority->idle.erase(priority->idle.begin());
  }
}

size_t FairShare::num_accounts() const {
  size_t count = 0;
  for (const auto& [number, priority] : priorities_) count += priority.accounts.size();
  return count;
}

}  // namespace quire
