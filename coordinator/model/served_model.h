#ifndef QUIRE_COORDINATOR_MODEL_SERVED_MODEL_H_
#define QUIRE_COORDINATOR_MODEL_SERVED_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace quire {

// Files of a model folder by name, as Worker.GetModelFiles brings them.
using ModelFiles = std::map<std::string, std::string>;

// What unset fields of a request become: generation_config.json's values, else the API's.
struct GenerationDefaults {
  float temperature = 1;
  uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
};

// A model as the coordinator needs it: from text to ids and back, and its defaults. Made from the
// files that its workers have. Immutable and thread safe.
class ServedModel {
 public:
  struct Options {
    bool use_generation_config = true;  // its sampling values; its EOS ids count either way
  };

  // A file that cannot be used is INVALID_ARGUMENT, naming the file and the key.
  static absl::StatusOr<std::shared_ptr<const ServedModel>> Load(const std::string& name,
                                                                 const ModelFiles& files,
                                                                 const Options& options);

  const std::string& name() const { return name_; }
  // Null without a tokenizer.json.
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  // Null without a chat template.
  const std::shared_ptr<const ChatTemplate>& chat_template() const { return chat_template_; }
  const GenerationDefaults& defaults() const { return defaults_; }
  // Of config.json and generation_config.json together; sorted, each once.
  const std::vector<uint32_t>& eos_token_ids() const { return eos_token_ids_; }

  // OK if these are the files that this model was made of; otherwise FAILED_PRECONDITION, naming
  // the first that differs.
  absl::Status CheckSameFiles(const ModelFiles& files) const;

 private:
  ServedModel() = default;
  absl::Status ReadConfigs(const ModelFiles& files, const Options& options);

  std::string name_;
  std::map<std::string, std::string> digests_;  // file name to SHA-256
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> chat_template_;
  GenerationDefaults defaults_;
  std::vector<uint32_t> eos_token_ids_;
};

// Names a model's files, their names included: equal for equal files.
std::string FilesDigest(const ModelFiles& files);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_MODEL_SERVED_MODEL_H_
