#include "coordinator/rpc/describe.h"

#include <algorithm>
#include <map>

namespace quire {
namespace {

// Adds a value to a list that holds each once.
template <typename List, typename Value>
void AddOnce(List* list, const Value& value) {
  if (std::find(list->begin(), list->end(), value) == list->end()) *list->Add() = value;
}

}  // namespace

v1::WorkerLoad ToWorkerLoad(const WorkerView& view) {
  v1::WorkerLoad load;
  load.set_name(view.info.name().empty() ? view.address : view.info.name());
  load.set_model(view.info.model());
  load.set_engine(view.info.engine());
  load.set_state(view.state);
  load.set_running(view.load.running());
  load.set_waiting(view.load.waiting());
  load.set_blocks_free(view.load.blocks_free());
  load.set_blocks_cached(view.load.blocks_cached());
  load.set_blocks_total(view.load.blocks_total());
  load.set_output_tokens_per_s(view.load.output_tokens_per_s());
  load.set_address(view.address);
  load.set_dtype(view.info.dtype());
  load.set_kv_cache(view.info.kv_cache());
  load.set_kv_reserved_bytes(view.load.kv_reserved_bytes());
  load.set_kv_used_bytes(view.load.kv_used_bytes());
  load.set_numerics_id(view.info.numerics_id());
  load.set_why(view.why);
  return load;
}

std::vector<v1::Model> ListServedModels(const std::vector<WorkerView>& views) {
  std::map<std::string, v1::Model> models;
  for (const WorkerView& view : views) {
    if (view.state != v1::WorkerLoad::READY && view.state != v1::WorkerLoad::SUSPECT) continue;
    v1::Model& model = models[view.info.model()];
    model.set_id(view.info.model());
    model.set_context_length(model.context_length() == 0
                                 ? view.info.context_length()
                                 : std::min(model.context_length(), view.info.context_length()));
    model.set_vocabulary_size(view.info.vocabulary_size());
    model.set_has_tokenizer(view.model->tokenizer() != nullptr);
    model.set_has_chat_template(view.model->chat_template() != nullptr);
    AddOnce(model.mutable_dtypes(), view.info.dtype());
    AddOnce(model.mutable_engines(), static_cast<int>(view.info.engine()));
    AddOnce(model.mutable_numerics_ids(), view.info.numerics_id());
  }
  std::vector<v1::Model> list;
  for (auto& [name, model] : models) list.push_back(std::move(model));
  return list;
}

}  // namespace quire
