#include "coordinator/registry/worker_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace quire {
namespace {

bool IsConnected(const WorkerView& view) {
  return view.state != v1::WorkerLoad::DEAD && view.state != v1::WorkerLoad::STARTING;
}

// Adds an incarnation to those that announced an address. False: it was there.
bool Remember(const std::string& incarnation, std::deque<std::string>* announced) {
  if (std::find(announced->begin(), announced->end(), incarnation) != announced->end())
    return false;
  announced->push_back(incarnation);
  if (announced->size() > WorkerRegistry::kMaxAnnounced) announced->pop_front();
  return true;
}

absl::Status AnswersElsewhere(const WorkerView& view) {
  return absl::AlreadyExistsError(
      absl::StrCat("another worker, ", view.info.name(), ", answers at ", view.address,
                   ": give this one the address that coordinators reach (--advertise-address)"));
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

absl::Status WorkerRegistry::Join(const std::string& address, const std::string& incarnation,
                                  const worker::v1::WorkerInfo& info) {
  if (absl::Status status = CheckNotReplaced(info.name(), incarnation); !status.ok()) return status;
  std::shared_ptr<WorkerLink> known;
  std::shared_ptr<WorkerLink> added;
  bool is_first_word = false;
  {
    MutexLock lock(mutex_);
    if (Entry* entry = FindAddress(address); entry != nullptr) {
      known = entry->link;
      is_first_word = Remember(incarnation, &entry->announced);
    } else {
      if (absl::Status status = CheckRoom(); !status.ok()) return status;
      added = AddLink(address, /*is_static=*/false);
      Remember(incarnation, &workers_[added->number()].announced);
    }
  }
  if (added != nullptr) {
    LogInfo(absl::StrCat("worker ", info.name(), " at ", address, " joins"));
    TakeName(info.name(), incarnation, added->number());
    added->Start();
    return absl::OkStatus();
  }
  const WorkerView view = known->View();
  if (!IsConnected(view) || view.incarnation == incarnation) return absl::OkStatus();
  if (is_first_word) {
    known->Restart("the worker was restarted");
    return absl::OkStatus();
  }
  // A new session found another process there: the announcement is of an address that is not its
  // own.
  return AnswersElsewhere(view);
}

absl::Status WorkerRegistry::List(const std::string& address, const std::string& incarnation,
                                  const worker::v1::WorkerInfo& info) {
  if (absl::Status status = CheckNotReplaced(info.name(), incarnation); !status.ok()) return status;
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
    entry->is_listed = true;
  }
  if (added != nullptr) {
    LogInfo(absl::StrCat("worker ", info.name(), " at ", address, " is listed"));
    added->Start();
    return absl::OkStatus();
  }
  const WorkerView view = known->View();
  if (!IsConnected(view) || view.incarnation == incarnation) return absl::OkStatus();
  if (view.state != v1::WorkerLoad::SUSPECT) return AnswersElsewhere(view);
  // The connection may be that of a process which ended without a word.
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
  if (absl::Status status = CheckNotReplaced(opened.worker().name(), opened.incarnation());
      !status.ok()) {
    return status;
  }
  for (const WorkerView& view : Views()) {
    if (view.number == link.number() || view.info.name() != opened.worker().name()) continue;
    if (IsConnected(view) && view.incarnation == opened.incarnation()) {
      return absl::AlreadyExistsError(absl::StrCat("the same worker, ", view.info.name(),
                                                   ", is known already at ", view.address));
    }
  }
  TakeName(opened.worker().name(), opened.incarnation(), link.number());
  return absl::OkStatus();
}

void WorkerRegistry::TakeName(const std::string& name, const std::string& incarnation,
                              WorkerNumber keep) {
  for (const WorkerView& view : Views()) {
    if (view.number == keep || view.info.name() != name || view.incarnation == incarnation)
      continue;
    std::shared_ptr<WorkerLink> replaced;
    bool is_static = false;
    {
      MutexLock lock(mutex_);
      const auto found = workers_.find(view.number);
      if (found == workers_.end()) continue;
      replaced = found->second.link;
      replaced_.push_back(view.incarnation);
      if (replaced_.size() > kMaxWorkers) replaced_.pop_front();
      // A static address stays known: another process may come up there.
      is_static = found->second.is_static;
      if (!is_static) workers_.erase(found);
    }
    const std::string why = absl::StrCat("replaced by a newer worker of the name ", name);
    LogWarning(absl::StrCat("worker ", name, " at ", view.address, " is ", why));
    is_static ? replaced->Restart(why) : replaced->Shutdown(absl::UnavailableError(why));
  }
}

absl::Status WorkerRegistry::CheckNotReplaced(const std::string& name,
                                              const std::string& incarnation) const {
  MutexLock lock(mutex_);
  if (std::find(replaced_.begin(), replaced_.end(), incarnation) == replaced_.end()) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat("a newer worker has the name ", name));
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
