#include "clients/cli/fields_command.h"

#include <iostream>
#include <string>

#include "clients/cli/text_table.h"
#include "common/request_fields.h"

namespace quire {

void FieldsCommand::Declare(CLI::App& app) {
  app.add_flag("--markdown", markdown_, "Print it as docs/api.md shows it");
}

absl::Status FieldsCommand::Run() {
  if (markdown_) {
    std::cout << "| field | range | default | meaning |\n|---|---|---|---|\n";
    for (const RequestField& field : RequestFields()) {
      std::cout << "| `" << field.path << "` | " << field.allowed << " | " << field.default_value
                << " | " << field.help << " |\n";
    }
    return absl::OkStatus();
  }
  TextTable table({"field", "flag", "range", "default"});
  for (const RequestField& field : RequestFields()) {
    table.AddRow({std::string(field.path), "--" + std::string(field.flag),
                  std::string(field.allowed), std::string(field.default_value)});
  }
  std::cout << table.ToString();
  return absl::OkStatus();
}

}  // namespace quire
