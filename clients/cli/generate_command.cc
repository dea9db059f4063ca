#include "clients/cli/generate_command.h"

#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/proto_json.h"

namespace quire {

void GenerateCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  request_.Declare(app);
  app.add_flag("--json", json_, "Print one JSON object instead of text");
}

absl::Status GenerateCommand::Run() {
  InterruptWatcher watcher;
  const std::unique_ptr<Client> client = connection_.MakeClient();
  // Several choices come interleaved, so only a lone one can stream.
  const bool streams = !json_ && request_.request().sampling().n() <= 1;
  Generation generation([streams](const std::string& text) {
    if (streams) std::cout << text << std::flush;
  });
  const auto call = client->Start(request_.request(), &generation, connection_.call_options());
  watcher.SetStop([call] { call->Cancel(); });
  const absl::Status status = call->Wait();
  if (json_) {
    if (generation.accepted().has_value()) std::cout << Print(generation.ToJson()) << std::endl;
  } else {
    PrintText(generation, streams);
    PrintSummary(generation);
  }
  return status;
}

void GenerateCommand::PrintText(const Generation& generation, bool streamed) const {
  for (size_t i = 0; i < generation.choices().size(); ++i) {
    const Generation::Choice& choice = generation.choices()[i];
    if (!streamed) std::cout << "[" << i << "] " << choice.text;
    // A model without a tokenizer gives ids alone.
    const bool ids_alone = choice.text.empty() && !choice.token_ids.empty();
    if (ids_alone) std::cout << absl::StrJoin(choice.token_ids, ",");
    if (ids_alone || !absl::EndsWith(choice.text, "\n")) std::cout << "\n";
  }
  std::cout << std::flush;
}

void GenerateCommand::PrintSummary(const Generation& generation) const {
  for (const std::string& notice : generation.notices()) std::cerr << notice << "\n";
  if (!generation.accepted().has_value()) return;
  std::vector<std::string> parts = {absl::StrCat(generation.num_tokens(), " tokens")};
  for (const Generation::Choice& choice : generation.choices()) {
    if (choice.finished.has_value()) {
      parts.push_back(v1::Finished::Reason_Name(choice.finished->reason()));
    }
  }
  if (const auto ttft_ms = generation.ttft_ms(); ttft_ms.has_value()) {
    parts.push_back(absl::StrFormat("TTFT %.1f ms", *ttft_ms));
  }
  if (const auto rate = generation.tokens_per_s(); rate.has_value()) {
    parts.push_back(absl::StrFormat("%.1f tok/s", *rate));
  }
  parts.push_back(absl::StrCat("request ", generation.accepted()->request_id()));
  parts.push_back(absl::StrCat("worker ", generation.accepted()->worker()));
  std::cerr << absl::StrJoin(parts, ", ") << "\n";
}

}  // namespace quire
