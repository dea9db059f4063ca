#ifndef QUIRE_WORKER_RPC_MODEL_FILES_H_
#define QUIRE_WORKER_RPC_MODEL_FILES_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace quire {

// The files of a model folder that a coordinator needs, by name: config.json,
// generation_config.json, the tokenizer's and the chat template. Those that do not exist are left
// out; config.json must. An error names the file: it cannot be read, or is larger than 64 MiB.
absl::StatusOr<std::map<std::string, std::string>> ReadModelFiles(const std::string& folder);

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_MODEL_FILES_H_
