#include "clients/cli/load_command.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/proto_json.h"
#include "clients/cli/text_table.h"

namespace quire {

void LoadCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_flag("--json", json_, "Print one JSON object");
}

absl::Status LoadCommand::Run() {
  const auto load = connection_.MakeClient()->GetLoad(connection_.call_options());
  if (!load.ok()) return load.status();
  if (json_) {
    std::cout << Print(ToJson(*load)) << "\n";
    return absl::OkStatus();
  }
  TextTable table({"worker", "model", "engine", "dtype", "state", "running", "waiting", "free",
                   "cached", "blocks", "tokens/s"});
  for (const v1::WorkerLoad& worker : load->workers()) {
    std::string engine = v1::Engine_Name(worker.engine());
    if (!worker.kv_cache().empty()) absl::StrAppend(&engine, "/", worker.kv_cache());
    table.AddRow({worker.name(), worker.model(), engine, worker.dtype(),
                  v1::WorkerLoad::State_Name(worker.state()), absl::StrCat(worker.running()),
                  absl::StrCat(worker.waiting()), absl::StrCat(worker.blocks_free()),
                  absl::StrCat(worker.blocks_cached()), absl::StrCat(worker.blocks_total()),
                  absl::StrFormat("%.1f", worker.output_tokens_per_s())});
  }
  std::cout << table.ToString();
  for (const v1::WorkerLoad& worker : load->workers()) {
    if (!worker.why().empty()) std::cout << worker.name() << ": " << worker.why() << "\n";
  }
  return absl::OkStatus();
}

}  // namespace quire
