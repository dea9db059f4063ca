#include "coordinator/registry/worker_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace quire {
namespace {

// Adds an incarnation to those that announced an address. False: it was there.
bool Remember(const std::string& incarnation, std::deque<std::string>* announced) {
  if (std::find(announced->begin(), announced->end(), incarnation) != announced->end())
    return false;
  announced->push_back(incarnation);
  if (announced->size() > WorkerRegistry::kMaxAnnounced) announced->pop_front();
  return true;
}

absl::Status AddressIsTaken(const WorkerView& view, const std::string& name) {
  if (view.info.name() == name) {
    return absl::AlreadyExistsError(absl::StrCat("the process before it, of the same name, ", name,
                                                 ", still answers at ", view.address));
  }
  return absl::AlreadyExistsError(
      absl::StrCat("another worker, ", view.info.name(), ", answers at ", view.address,
                   ": give this one the address that coordinators reach (--advertise-address)"));
}

absl::Status NameIsTaken(const WorkerView& view) {
  return absl::AlreadyExistsError(absl::StrCat(
      "another process of the name ", view.info.name(), " answers at ", view.address,
      ": this one waits until that is gone (--worker-name gives it a name of its own)"));
}

}  // namespace

WorkerRegistry::WorkerRegistry(WorkerLink::Context context, WorkerConnectorFactory connect,
                               int64_t forget_micros)
    : context_(std::move(context)), connect_(std::move(connect)), forget_micros_(forget_micros) {
  context_.admit = [this](const WorkerLink& link, const worker::v1::Opened& opened) {
    return Admit(link, opened);
  };
}

void WorkerRegistry::Shutdown() {
  const std::vector<std::shared_ptr<WorkerLink>> links = Links();
  for (const auto& link : links)
    link->Shutdown(absl::UnavailableError("the coordinator shuts down"));
  for (const auto& link : links) link->WaitUntilReleased();
}

std::shared_ptr<WorkerLink> WorkerRegistry::AddLink(const std::string& address, bool is_static) {
  const WorkerNumber number = next_number_++;
  Entry& entry = workers_[number];
  entry.link = WorkerLink::Create(number, address, connect_(address), context_);
  entry.is_static = is_static;
  entry.last_alive = context_.timers->Now();
  return entry.link;
}

WorkerRegistry::Entry* WorkerRegistry::FindAddress(const std::string& address) {
  for (auto& [number, entry] : workers_) {
    if (entry.link->address() == address) return &entry;
  }
  return nullptr;
}

absl::Status WorkerRegistry::CheckRoom() const {
  if (workers_.size() < kMaxWorkers) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the coordinator knows ", workers_.size(), " workers and takes no more"));
}

void WorkerRegistry::AddStatic(const std::string& address) {
  std::shared_ptr<WorkerLink> link;
  {
    MutexLock lock(mutex_);
    if (Entry* entry = FindAddress(address); entry != nullptr) {
      entry->is_static = true;
      return;
    }
    link = AddLink(address, /*is_static=*/true);
  }
  link->Start();
}

WorkerRegistry::Entry* WorkerRegistry::FindName(const std::string& name) {
  for (auto& [number, entry] : workers_) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

absl::Status WorkerRegistry::Join(const std::string& address, const std::string& incarnation,
                                  const std::string& name) {
  std::shared_ptr<WorkerLink> holder;
  {
    MutexLock lock(mutex_);
    Entry* entry = FindName(name);
    if (entry != nullptr && entry->link->address() != address) holder = entry->link;
  }
  if (holder != nullptr) {
    const WorkerView view = holder->View();
    if (view.answers && view.incarnation == incarnation) return absl::OkStatus();
    if (view.answers) return NameIsTaken(view);
  }
  return Announce(address, incarnation, name, /*is_listed=*/false);
}

absl::Status WorkerRegistry::List(const std::string& address, const std::string& incarnation,
                                  const std::string& name) {
  return Announce(address, incarnation, name, /*is_listed=*/true);
}

absl::Status WorkerRegistry::Announce(const std::string& address, const std::string& incarnation,
                                      const std::string& name, bool is_listed) {
  std::shared_ptr<WorkerLink> known;
  std::shared_ptr<WorkerLink> added;
  {
    MutexLock lock(mutex_);
    Entry* entry = FindAddress(address);
    if (entry != nullptr) {
      known = entry->link;
    } else {
      if (absl::Status status = CheckRoom(); !status.ok()) return status;
      added = AddLink(address, /*is_static=*/false);
      entry = &workers_[added->number()];
    }
    if (is_listed) entry->is_listed = true;
  }
  if (added != nullptr) {
    LogInfo(absl::StrCat("worker ", name, " at ", address, is_listed ? " is listed" : " joins"));
    added->Start();
    return absl::OkStatus();
  }
  const WorkerView view = known->View();
  if (!view.is_open || view.incarnation == incarnation) return absl::OkStatus();
  // If the process that answered is gone, its connection is found dead by pings.
  if (view.answers) return AddressIsTaken(view, name);
  bool is_first_word = false;
  {
    MutexLock lock(mutex_);
    Entry* entry = FindAddress(address);
    is_first_word = entry != nullptr && Remember(incarnation, &entry->announced);
  }
  if (is_first_word) known->Restart("the worker was restarted");
  return absl::OkStatus();
}

void WorkerRegistry::Unlist(const std::string& address) {
  MutexLock lock(mutex_);
  if (Entry* entry = FindAddress(address); entry != nullptr) entry->is_listed = false;
}

absl::Status WorkerRegistry::Admit(const WorkerLink& link, const worker::v1::Opened& opened) {
  const std::string& name = opened.worker().name();
  std::shared_ptr<WorkerLink> replaced;
  bool is_static = false;
  {
    MutexLock lock(mutex_);
    const auto own = workers_.find(link.number());
    if (own == workers_.end()) return absl::CancelledError("the worker is not wanted any more");
    if (Entry* holder = FindName(name); holder != nullptr && holder->link.get() != &link) {
      const WorkerView view = holder->link->View();
      if (view.is_open && view.incarnation == opened.incarnation()) {
        return absl::AlreadyExistsError(
            absl::StrCat("the same worker, ", name, ", is known already at ", view.address));
      }
      if (view.answers) return NameIsTaken(view);
      replaced = holder->link;
      // A static address stays known: another process may come up there.
      is_static = holder->is_static;
      holder->name.clear();
      if (!is_static) workers_.erase(replaced->number());
    }
    own->second.name = name;
  }
  if (replaced == nullptr) return absl::OkStatus();
  const std::string why = absl::StrCat("replaced by the worker ", name, " at ", link.address());
  LogWarning(absl::StrCat("worker ", name, " at ", replaced->address(), " is ", why));
  is_static ? replaced->Restart(why) : replaced->Shutdown(absl::UnavailableError(why));
  return absl::OkStatus();
}

std::vector<std::shared_ptr<WorkerLink>> WorkerRegistry::Links() const {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<WorkerLink>> links;
  links.reserve(workers_.size());
  for (const auto& [number, entry] : workers_) links.push_back(entry.link);
  return links;
}

std::vector<WorkerView> WorkerRegistry::Views() const {
  std::vector<WorkerView> views;
  for (const auto& link : Links()) views.push_back(link->View());
  return views;
}

std::shared_ptr<WorkerLink> WorkerRegistry::Find(WorkerNumber number) const {
  MutexLock lock(mutex_);
  const auto found = workers_.find(number);
  return found == workers_.end() ? nullptr : found->second.link;
}

void WorkerRegistry::Tick() {
  const int64_t now = context_.timers->Now();
  for (const auto& link : Links()) {
    link->Tick();
    // One that is connected stays, also if its model cannot be read.
    const WorkerView view = link->View();
    const bool gone = view.state == v1::WorkerLoad::DEAD || view.incarnation.empty();
    bool forget = false;
    {
      MutexLock lock(mutex_);
      const auto found = workers_.find(link->number());
      if (found == workers_.end()) continue;
      if (!gone) found->second.last_alive = now;
      const Entry& entry = found->second;
      forget = !entry.is_static && !entry.is_listed && now - entry.last_alive > forget_micros_;
      if (forget) workers_.erase(found);
    }
    if (forget) link->Shutdown(absl::UnavailableError("gone for too long"));
  }
}

}  // namespace quire
