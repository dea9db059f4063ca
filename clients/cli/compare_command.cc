#include "clients/cli/compare_command.h"

#include <algorithm>
#include <iostream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/files.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/machine_info.h"
#include "clients/cli/progress_line.h"
#include "clients/cli/proto_json.h"
#include "common/version.h"

namespace quire {

void CompareCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_option("--model", options_.model, "Model to compare on [the only one served]");
  app.add_option("--prompt", options_.prompt, "Prompt of every request")->capture_default_str();
  app.add_option("--new-tokens", options_.new_tokens, "Tokens to generate, a row each")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--concurrency", options_.concurrency, "Requests at once, above 1, a row each")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--concurrent-new-tokens", options_.concurrent_new_tokens,
                 "The --new-tokens at which --concurrency runs")
      ->capture_default_str();
  app.add_option("--requests", options_.requests, "Requests of a row with one at a time")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", options_.rounds,
                 "Requests for each of the concurrent streams of a row")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--row-budget-s", row_budget_s_,
                 "Seconds after which a row begins no more requests, but for its first ones")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--engines", engines_,
                 "Compare only these: hf, baseline-dynamic, baseline-static, paged")
      ->delimiter(',');
  app.add_option("--output", output_, "Write compare.json to this file");
  app.add_flag("--json", json_, "Print compare.json instead of a table");
}

absl::Status CompareCommand::Run() {
  InterruptWatcher watcher;
  options_.row_budget = std::chrono::milliseconds(static_cast<int64_t>(row_budget_s_ * 1e3));
  const std::unique_ptr<Client> client = connection_.MakeClient();
  const auto load = client->GetLoad(connection_.call_options());
  if (!load.ok()) return load.status();
  const auto info = client->GetServerInfo(connection_.call_options());
  if (!info.ok()) return info.status();

  if (options_.model.empty()) {
    std::set<std::string> models;
    for (const v1::WorkerLoad& worker : load->workers()) models.insert(worker.model());
    if (models.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("several models are served, give --model: ", absl::StrJoin(models, ", ")));
    }
    if (!models.empty()) options_.model = *models.begin();
  }
  std::vector<CompareVariant> variants = FindVariants(*load, options_.model);
  if (!engines_.empty()) {
    std::erase_if(variants, [this](const CompareVariant& variant) {
      return std::find(engines_.begin(), engines_.end(), variant.engine) == engines_.end();
    });
  }
  if (variants.empty()) return absl::UnavailableError("no worker to compare is READY");

  CompareResult result;
  result.machine = MachineInfo();
  result.versions = {{"quire", info->version()}, {"quire_client", kVersion}};
  result.model = options_.model;
  ProgressLine line;
  CompareRunner runner(
      client.get(), options_, connection_.call_options(),
      [&line](const std::string& text) { line.Draw(text); },
      [&line](const std::string& text) { line.Keep(text); });
  watcher.SetStop([&runner] { runner.Interrupt(); });
  auto rows = runner.Run(variants);
  watcher.SetStop(nullptr);
  if (!rows.ok()) return rows.status();
  result.rows = *std::move(rows);
  result.workload = {{"prompt", options_.prompt},
                     {"prompt_tokens", runner.num_prompt_tokens()},
                     {"temperature", 0},
                     {"ignore_eos", true}};

  const nlohmann::ordered_json json = CompareToJson(result);
  if (!output_.empty()) {
    absl::Status status = WriteFile(output_, Print(json, /*indented=*/true) + "\n");
    if (!status.ok()) return status;
  }
  std::cout << (json_ ? Print(json) + "\n" : CompareTable(result)) << std::flush;
  return absl::OkStatus();
}

}  // namespace quire
