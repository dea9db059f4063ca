#include "clients/cli/bench_command.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "clients/cli/exit_code.h"
#include "clients/cli/files.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/progress_line.h"
#include "clients/cli/proto_json.h"
#include "common/clock.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

std::string Now() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%d-%H%M%S", std::localtime(&now));
  return text;
}

}  // namespace

void BenchCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  DeclarePrompts(app);
  DeclareLoad(app);
  // A benchmark makes its own prompts, ids and seeds.
  request_.Declare(app, {"request_id", "text", "token_ids", "chat.messages", "sampling.seed",
                         "resume.choices", "prompt_logprobs"});
  app.add_option_function<std::vector<std::string>>(
      "--goodput",
      [this](const std::vector<std::string>& texts) {
        absl::StatusOr<GoodputLimits> limits = ParseGoodput(texts);
        if (!limits.ok()) {
          throw CLI::ValidationError("--goodput", std::string(limits.status().message()));
        }
        goodput_ = *limits;
      },
      "Limits that a good request keeps, in ms: ttft:2000 tpot:100 e2el:5000");
  app.add_option("--metric-percentiles", percentiles_, "Percentiles to report, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--output", output_, "Also write the JSON object to this file");
  app.add_flag("--save-detailed", save_detailed_,
               "Add each request's lengths and times to the JSON object");
  app.add_flag("--json", json_, "Print one JSON object instead of a table");
}

void BenchCommand::DeclarePrompts(CLI::App& app) {
  CLI::Option* prompt = app.add_option("--prompt", prompts_, "Prompt; several are used in turn");
  prompt->allow_extra_args(false);
  CLI::Option* file = app.add_option_function<std::string>(
      "--prompt-file",
      [this](const std::string& path) {
        absl::StatusOr<std::string> text = ReadFile(path);
        if (!text.ok()) {
          throw CLI::ValidationError("--prompt-file", std::string(text.status().message()));
        }
        prompts_ = absl::StrSplit(*text, '\n', absl::SkipEmpty());
        if (prompts_.empty()) throw CLI::ValidationError("--prompt-file", path + " has no lines");
      },
      "File of prompts, one a line, used in turn; - is standard input");
  CLI::Option* random = app.add_option("--random-input-len", random_input_len_,
                                       "Prompts of so many random token ids");
  app.add_option("--random-output-len", random_output_len_, "Tokens to generate for each of them")
      ->needs(random)
      ->capture_default_str();
  app.add_option("--random-len-sigma", random_len_sigma_,
                 "Log-normal lengths around these two means, with this sigma; 0: all alike")
      ->needs(random)
      ->check(CLI::Range(0.0, 5.0))
      ->capture_default_str();
  app.add_option("--random-len-max", random_len_max_, "No log-normal length is above this")
      ->needs(random)
      ->check(CLI::PositiveNumber);
  file->excludes(prompt);
  random->excludes(prompt)->excludes(file);
}

void BenchCommand::DeclareLoad(CLI::App& app) {
  app.add_option("--num-prompts", num_prompts_, "Requests to send")->capture_default_str();
  app.add_option("--num-warmups", num_warmups_,
                 "Requests sent before, one by one, that do not count")
      ->capture_default_str();
  app.add_option(
         "--concurrency,--max-concurrency", concurrency_,
         "Requests that run at once: the closed loop's width, or a bound on the open loop; 0: no "
         "bound")
      ->capture_default_str();
  app.add_option("--request-rate", request_rate_,
                 "Open loop: requests a second, as a Poisson process; inf: as soon as may be")
      ->check([](const std::string& text) {
        double rate = 0;
        const bool is_number = CLI::detail::lexical_cast(text, rate);
        return is_number && rate > 0 ? std::string() : "must be above 0, not " + text;
      });
  app.add_option("--seed", seed_, "Seed of arrivals and random prompts")->capture_default_str();
}

absl::StatusOr<v1::Model> BenchCommand::FindModel(Client& client) const {
  const auto models = client.ListModels(connection_.call_options());
  if (!models.ok()) return models.status();
  const std::string& wanted = request_.request().model();
  std::vector<std::string> names;
  for (const v1::Model& model : models->models()) {
    if (model.id() == wanted || (wanted.empty() && models->models_size() == 1)) return model;
    names.push_back(model.id());
  }
  return absl::NotFoundError(absl::StrCat(
      wanted.empty() ? "give --model" : absl::StrCat("there is no model \"", wanted, "\""),
      "; there is: ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<BenchRequests> BenchCommand::MakeRequests(const v1::Model& model) const {
  v1::GenerateRequest base = request_.request();
  base.set_model(model.id());
  if (!prompts_.empty()) return BenchRequests(std::move(base), prompts_);
  if (random_input_len_ == 0) {
    return absl::InvalidArgumentError("give --prompt, --prompt-file or --random-input-len");
  }
  const auto lengths = [this](uint32_t mean) {
    return LengthDistribution{static_cast<double>(mean), random_len_sigma_, random_len_max_};
  };
  return BenchRequests(std::move(base), lengths(random_input_len_), lengths(random_output_len_),
                       std::max(model.vocabulary_size(), 1u), seed_);
}

LoadShape BenchCommand::MakeShape() const {
  LoadShape shape;
  shape.num_requests = num_prompts_;
  if (concurrency_ > 0) shape.max_in_flight = concurrency_;
  shape.request_rate = request_rate_;
  shape.seed = seed_;
  return shape;
}

absl::Status BenchCommand::WarmUp(Client& client, const BenchRequests& requests) const {
  for (size_t i = 0; i < num_warmups_; ++i) {
    GenerateHandler ignore;
    absl::Status status = client.Generate(requests.Make(i), &ignore, connection_.call_options());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BenchCommand::Run() {
  InterruptWatcher watcher;
  const std::unique_ptr<Client> client = connection_.MakeClient();
  const absl::StatusOr<v1::Model> model = FindModel(*client);
  if (!model.ok()) return model.status();
  const absl::StatusOr<BenchRequests> requests = MakeRequests(*model);
  if (!requests.ok()) return requests.status();
  if (absl::Status status = WarmUp(*client, *requests); !status.ok()) return status;

  ProgressLine line;
  const int64_t started = SteadyMicros();
  LoadGenerator generator(
      client.get(), [&](size_t i) { return requests->Make(i); }, connection_.call_options(),
      [&](const LoadGenerator::Progress& progress) {
        line.Draw(absl::StrFormat("%d of %d requests ended, %d running, %.0f tok/s",
                                  progress.num_ended, num_prompts_, progress.num_in_flight,
                                  progress.num_tokens * 1e6 / (SteadyMicros() - started)));
      });
  watcher.SetStop([&generator] { generator.Interrupt(); });
  const std::vector<RequestSample> records = generator.Run(MakeShape());
  const double duration_s = (SteadyMicros() - started) / 1e6;
  watcher.SetStop(nullptr);
  if (watcher.interrupted()) return absl::CancelledError("interrupted");
  line.Draw("");
  return Report(model->id(), records, duration_s);
}

absl::Status BenchCommand::Report(const std::string& model,
                                  const std::vector<RequestSample>& records,
                                  double duration_s) const {
  Json json;
  json["date"] = Now();
  json["backend"] = "quire";
  json["model_id"] = model;
  json["num_prompts"] = num_prompts_;
  json["request_rate"] = std::isinf(request_rate_) ? Json("inf") : Json(request_rate_);
  json["max_concurrency"] = concurrency_ > 0 ? Json(concurrency_) : Json();
  json.update(BenchReport(records, duration_s, goodput_, percentiles_));
  if (save_detailed_) json.update(BenchDetails(records));
  if (!output_.empty()) {
    absl::Status status = WriteFile(output_, Print(json, /*indented=*/true) + "\n");
    if (!status.ok()) return status;
  }
  std::cout << (json_ ? Print(json) + "\n" : BenchTable(json)) << std::flush;
  const Json& errors = json["errors"];
  if (errors.empty()) return absl::OkStatus();
  for (const auto& [error, count] : errors.items()) {
    std::cerr << count << " x " << error << "\n";
  }
  return absl::UnknownError(
      absl::StrCat(json["failed"].get<size_t>(), " of ", records.size(), " requests failed"));
}

}  // namespace quire
