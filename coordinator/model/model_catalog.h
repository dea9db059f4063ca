#ifndef QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_
#define QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "coordinator/model/served_model.h"

namespace quire {

// The models in use, each made once however many workers serve it. A model lives as long as a
// worker (or a request) holds it; then other files may take its name. Thread safe.
class ModelCatalog {
 public:
  explicit ModelCatalog(const ServedModel::Options& options) : options_(options) {}

  // The model of that name, made from `files` unless it lives already. FAILED_PRECONDITION if it
  // lives and its files are others. Takes as long as a tokenizer takes to load.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Acquire(const std::string& name,
                                                             const ModelFiles& files) {
    MutexLock lock(mutex_);
    if (auto model = models_[name].lock(); model != nullptr) {
      if (absl::Status status = model->CheckSameFiles(files); !status.ok()) return status;
      return model;
    }
    std::erase_if(models_, [](const auto& entry) { return entry.second.expired(); });
    auto model = ServedModel::Load(name, files, options_);
    if (model.ok()) models_[name] = *model;
    return model;
  }

 private:
  const ServedModel::Options options_;
  Mutex mutex_;
  std::map<std::string, std::weak_ptr<const ServedModel>> models_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_
