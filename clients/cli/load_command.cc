#include "clients/cli/load_command.h"

#include <algorithm>
#include <chrono>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/proto_json.h"
#include "clients/cli/text_table.h"
#include "common/clock.h"

namespace quire {

void LoadCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_flag("--json", json_, "Print one JSON object");
  app.add_option("--wait-ready", wait_ready_s_,
                 "Seconds to wait until a worker is READY; 0: show what there is now");
  app.add_option("--min-ready", min_ready_, "How many workers --wait-ready waits for")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

absl::StatusOr<v1::GetLoadResponse> LoadCommand::Ask() {
  constexpr std::chrono::milliseconds kPause(100);
  const auto client = wait_ready_s_ > 0 ? connection_.MakeHastyClient() : connection_.MakeClient();
  const int64_t deadline = SteadyMicros() + static_cast<int64_t>(wait_ready_s_ * 1e6);
  int64_t num_ready = 0;
  for (;;) {
    auto load = client->GetLoad(connection_.call_options());
    if (wait_ready_s_ <= 0) return load;
    if (load.ok()) {
      const auto is_ready = [](const v1::WorkerLoad& worker) {
        return worker.state() == v1::WorkerLoad::READY;
      };
      num_ready = std::count_if(load->workers().begin(), load->workers().end(), is_ready);
      if (num_ready >= min_ready_) return load;
    } else if (!absl::IsUnavailable(load.status())) {
      return load.status();
    }
    if (SteadyMicros() + std::chrono::microseconds(kPause).count() > deadline) {
      return absl::DeadlineExceededError(absl::StrFormat(
          "%d of %d workers are READY after %.1f s%s%s", num_ready, min_ready_, wait_ready_s_,
          load.ok() ? "" : ": ", load.ok() ? "" : std::string(load.status().message())));
    }
    client->Wait(kPause);
  }
}

absl::Status LoadCommand::Run() {
  const auto load = Ask();
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
