#ifndef QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_
#define QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "coordinator/model/served_model.h"

namespace quire {

// The models in use, each made once however many workers serve it. A name is taken as long as a
// worker (or a request) holds its model; then other files may take it. The models used last are
// kept, so that a worker that comes back with the same files costs no parsing. Thread safe.
class ModelCatalog {
 public:
  static constexpr size_t kMaxKept = 4;

  explicit ModelCatalog(const ServedModel::Options& options) : options_(options) {}

  // The model of that name, made from `files` unless it is known already. FAILED_PRECONDITION if
  // the name is taken and its files are others. May take as long as a tokenizer takes to load.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Acquire(const std::string& name,
                                                             const ModelFiles& files);

  // Whether files of that digest would be refused now.
  bool IsTaken(const std::string& name, const std::string& digest) const;

 private:
  // What holders of a model share: the name is taken while it lives.
  struct Use {
    std::string digest;
    std::shared_ptr<const ServedModel> model;
  };
  static std::shared_ptr<const ServedModel> Share(const std::shared_ptr<const Use>& use) {
    return {use, use->model.get()};
  }

  const ServedModel::Options options_;
  Mutex loading_;  // one model is made at a time
  mutable Mutex mutex_;
  std::map<std::string, std::weak_ptr<const Use>> in_use_ QUIRE_GUARDED_BY(mutex_);
  std::deque<Use> kept_ QUIRE_GUARDED_BY(mutex_);  // used last first; at most kMaxKept
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_MODEL_MODEL_CATALOG_H_
