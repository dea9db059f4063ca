#include "clients/cli/models_command.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/proto_json.h"
#include "clients/cli/text_table.h"

namespace quire {

void ModelsCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_flag("--json", json_, "Print one JSON object");
}

absl::Status ModelsCommand::Run() {
  const auto models = connection_.MakeClient()->ListModels(connection_.call_options());
  if (!models.ok()) return models.status();
  if (json_) {
    std::cout << Print(ToJson(*models)) << "\n";
    return absl::OkStatus();
  }
  TextTable table({"model", "context", "vocabulary", "dtypes", "engines", "text", "chat"});
  for (const v1::Model& model : models->models()) {
    std::vector<std::string> engines;
    for (const int engine : model.engines()) {
      engines.push_back(v1::Engine_Name(static_cast<v1::Engine>(engine)));
    }
    table.AddRow({model.id(), absl::StrCat(model.context_length()),
                  absl::StrCat(model.vocabulary_size()), absl::StrJoin(model.dtypes(), ","),
                  absl::StrJoin(engines, ","), model.has_tokenizer() ? "yes" : "no",
                  model.has_chat_template() ? "yes" : "no"});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

}  // namespace quire
