#include "coordinator/model/model_catalog.h"

#include <algorithm>
#include <utility>

namespace quire {

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelCatalog::Acquire(const std::string& name,
                                                                         const ModelFiles& files) {
  const std::string digest = FilesDigest(files);
  MutexLock loading(loading_);
  Use made;
  {
    MutexLock lock(mutex_);
    if (const auto found = in_use_.find(name); found != in_use_.end()) {
      if (const auto use = found->second.lock(); use != nullptr) {
        if (absl::Status status = use->model->CheckSameFiles(files); !status.ok()) return status;
        return Share(use);
      }
    }
    std::erase_if(in_use_, [](const auto& entry) { return entry.second.expired(); });
    const auto kept = std::find_if(kept_.begin(), kept_.end(), [&](const Use& use) {
      return use.digest == digest && use.model->name() == name;
    });
    if (kept != kept_.end()) {
      made = std::move(*kept);
      kept_.erase(kept);
    }
  }
  if (made.model == nullptr) {
    auto model = ServedModel::Load(name, files, options_);
    if (!model.ok()) return model.status();
    made = {digest, *std::move(model)};
  }
  const auto use = std::make_shared<const Use>(made);
  MutexLock lock(mutex_);
  in_use_[name] = use;
  kept_.push_front(std::move(made));
  if (kept_.size() > kMaxKept) kept_.pop_back();
  return Share(use);
}

bool ModelCatalog::IsTaken(const std::string& name, const std::string& digest) const {
  MutexLock lock(mutex_);
  const auto found = in_use_.find(name);
  if (found == in_use_.end()) return false;
  const auto use = found->second.lock();
  return use != nullptr && use->digest != digest;
}

}  // namespace quire
