// Runs the scenarios of testdata/: text scripts of what arrives and what each step must do.
//
//   pool blocks=N block_size=N [budget=N] [slots=N] [queue=N] [cache=off] [aging=MS]
//        [weights=TENANT:N,...]     first, once
//   submit NAME prompt=N max_new=N [priority=N] [tenant=NAME] [like=NAME common=N] [salt=S]
//          [queue_timeout=MS] [stop=ID] [source=NAME] [emitted=N]
//   step [NAME=ID ...]   plans a step and settles it; NAME samples ID (else a fresh id)
//   plan / settle [NAME=ID ...] [fault=NAME]     the halves of a step
//   abort NAME           ends it with CANCELLED
//   time MS              sets the clock
//   load                 prints running, waiting, free, cached
//
// After "->", on the same line and on indented lines below it, stands what must happen, in order:
//   run NAME[first,last) ...   idle   preempt NAME   finish NAME stop|length|aborted
//   refuse   running=N waiting=N free=N cached=N
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "scheduler/batch/batch_scheduler.h"

namespace quire {
namespace {

using Words = std::vector<std::string>;

class Scenario {
 public:
  // What a command did, as the words that scripts use.
  std::string Run(const Words& command) {
    done_.clear();
    const std::string& verb = command[0];
    if (verb == "pool")
      Pool(command);
    else if (verb == "submit")
      Submit(command);
    else if (verb == "step") {
      if (Plan()) Settle(command);
    } else if (verb == "plan")
      Plan();
    else if (verb == "settle")
      Settle(command);
    else if (verb == "abort")
      Abort(command[1]);
    else if (verb == "time")
      now_ = Number(command[1]) * 1000;
    else if (verb == "load")
      Load();
    else
      ADD_FAILURE() << "unknown command " << verb;
    return absl::StrJoin(done_, " ");
  }

 private:
  static int64_t Number(const std::string& text) {
    int64_t value = 0;
    EXPECT_TRUE(absl::SimpleAtoi(text, &value)) << text;
    return value;
  }
  static std::map<std::string, std::string> Options(const Words& command, size_t first) {
    std::map<std::string, std::string> options;
    for (size_t i = first; i < command.size(); ++i) {
      const std::pair<std::string, std::string> option =
          absl::StrSplit(command[i], absl::MaxSplits('=', 1));
      options.insert(option);
    }
    return options;
  }

  void Pool(const Words& command) {
    auto options = Options(command, 1);
    BatchScheduler::Options scheduler;
    scheduler.kv.num_blocks = Number(options["blocks"]);
    scheduler.kv.block_size = Number(options["block_size"]);
    scheduler.kv.enable_prefix_caching = options["cache"] != "off";
    scheduler.max_num_batched_tokens = options.contains("budget") ? Number(options["budget"]) : 64;
    scheduler.max_num_seqs = options.contains("slots") ? Number(options["slots"]) : 8;
    scheduler.max_queue = options.contains("queue") ? Number(options["queue"]) : 64;
    scheduler.kv_bytes_per_token = 1;
    if (options.contains("aging")) scheduler.priority_aging = Number(options["aging"]) * 1000;
    for (const auto& weight : absl::StrSplit(options["weights"], ',', absl::SkipEmpty())) {
      const std::pair<std::string, std::string> pair = absl::StrSplit(weight, ':');
      scheduler.weights.by_tenant[pair.first] = Number(pair.second);
    }
    scheduler_ = std::make_unique<BatchScheduler>(scheduler);
  }

  void Submit(const Words& command) {
    auto options = Options(command, 2);
    const std::string& name = command[1];
    SequenceSpec spec;
    spec.tag = static_cast<SequenceTag>(names_.size());
    const TokenId base = (spec.tag + 1) * 1000;
    for (int64_t i = 0; i < Number(options["prompt"]); ++i) spec.tokens.push_back(base + i);
    if (options.contains("like")) {
      const std::vector<TokenId>& other = prompts_[options["like"]];
      std::copy_n(other.begin(), Number(options["common"]), spec.tokens.begin());
    }
    prompts_[name] = spec.tokens;
    spec.num_prompt_tokens = spec.tokens.size();
    for (int64_t i = 0; options.contains("emitted") && i < Number(options["emitted"]); ++i) {
      spec.tokens.push_back(base + 500 + i);
    }
    spec.max_output_tokens = Number(options["max_new"]);
    spec.cache_salt = options["salt"];
    spec.tenant = options["tenant"];
    if (options.contains("priority")) spec.priority = Number(options["priority"]);
    if (options.contains("queue_timeout")) {
      spec.queue_deadline = now_ + Number(options["queue_timeout"]) * 1000;
    }
    if (options.contains("source")) spec.prompt_source = TagOf(options["source"]);
    auto params = std::make_shared<SamplingParams>();
    params->seed = spec.tag;  // tells whose slot it is
    if (options.contains("stop")) params->stop_token_ids = {TokenId(Number(options["stop"]))};
    spec.params = std::move(params);
    names_.push_back(name);
    positions_.push_back(0);
    if (!scheduler_->Add(std::move(spec), now_).ok()) done_.push_back("refuse");
  }

  bool Plan() {
    StepPlan plan;
    events_.Clear();
    const bool planned = scheduler_->Plan(now_, &plan, &events_);
    std::map<SlotId, SequenceTag> filled;
    if (planned) {
      for (const SlotFill& fill : plan.filled) {
        const auto tag = static_cast<SequenceTag>(fill.params->seed);
        slots_[fill.slot] = tag;
        positions_[tag] = fill.num_cached_tokens;
      }
      std::string text = "run";
      for (const SlotRun& run : plan.runs) {
        const SequenceTag tag = slots_[run.slot];
        absl::StrAppend(&text, " ", names_[tag], "[", positions_[tag], ",",
                        positions_[tag] + run.num_tokens, ")");
        positions_[tag] += run.num_tokens;
      }
      done_.push_back(text);
      plans_.push_back(std::move(plan));
    } else {
      done_.push_back("idle");
    }
    ReportEvents();
    return planned;
  }

  void Settle(const Words& command) {
    auto options = Options(command, 1);
    const StepPlan plan = std::move(plans_.front());
    plans_.erase(plans_.begin());
    StepResult result;
    result.step = plan.step;
    for (const SlotRun& run : plan.runs) {
      const std::string& name = names_[slots_[run.slot]];
      SlotOutput output{.slot = run.slot, .first_token = uint32_t(result.tokens.size())};
      if (options["fault"] == name) output.fault = NumericFault::kAttention;
      if (run.samples) {
        output.num_tokens = 1;
        result.tokens.push_back(options.contains(name) ? Number(options[name]) : next_token_++);
      }
      result.outputs.push_back(output);
    }
    events_.Clear();
    scheduler_->Settle(result, now_, &events_);
    ReportEvents();
  }

  void Abort(const std::string& name) {
    events_.Clear();
    scheduler_->Abort(TagOf(name), absl::CancelledError(""), std::nullopt, now_, &events_);
    ReportEvents();
  }

  void Load() {
    const SchedulerLoad load = scheduler_->load();
    done_.push_back(absl::StrCat("running=", load.running, " waiting=", load.waiting,
                                 " free=", load.blocks_free, " cached=", load.blocks_cached));
  }

  void ReportEvents() {
    for (const SequenceTag tag : events_.preempted) done_.push_back("preempt " + names_[tag]);
    for (const SequenceEvents::Finish& finish : events_.finishes) {
      const char* reasons[] = {"stop", "length", "aborted"};
      done_.push_back(
          absl::StrCat("finish ", names_[finish.tag], " ", reasons[int(finish.reason)]));
    }
  }

  SequenceTag TagOf(const std::string& name) const {
    return std::find(names_.begin(), names_.end(), name) - names_.begin();
  }

  std::unique_ptr<BatchScheduler> scheduler_;
  Words names_;  // by tag
  std::map<std::string, std::vector<TokenId>> prompts_;
  std::map<SlotId, SequenceTag> slots_;
  std::vector<uint32_t> positions_;
  std::vector<StepPlan> plans_;
  SequenceEvents events_;
  Micros now_ = 0;
  TokenId next_token_ = 1'000'000;
  std::vector<std::string> done_;
};

class ScenarioTest : public testing::TestWithParam<std::string> {};

TEST_P(ScenarioTest, DoesWhatTheScriptSays) {
  std::ifstream file(GetParam());
  ASSERT_TRUE(file.good());
  struct Command {
    int line;
    Words words;
    std::string expected;
  };
  std::vector<Command> commands;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    text = text.substr(0, text.find('#'));
    const bool continues = !text.empty() && text[0] == ' ';
    const size_t arrow = text.find("->");
    const Words left = absl::StrSplit(text.substr(0, arrow), ' ', absl::SkipWhitespace());
    if (left.empty() && arrow == std::string::npos) continue;
    if (continues) {
      absl::StrAppend(&commands.back().expected, " ", absl::StrJoin(left, " "));
    } else {
      const Words right =
          arrow == std::string::npos
              ? Words()
              : Words(absl::StrSplit(text.substr(arrow + 2), ' ', absl::SkipWhitespace()));
      commands.push_back({line, left, absl::StrJoin(right, " ")});
    }
  }
  Scenario scenario;
  for (const Command& command : commands) {
    EXPECT_EQ(scenario.Run(command.words), command.expected)
        << std::filesystem::path(GetParam()).filename() << ":" << command.line;
  }
}

std::vector<std::string> Scripts() {
  std::vector<std::string> scripts;
  for (const auto& entry : std::filesystem::directory_iterator(QUIRE_TESTDATA)) {
    scripts.push_back(entry.path().string());
  }
  std::sort(scripts.begin(), scripts.end());
  return scripts;
}

INSTANTIATE_TEST_SUITE_P(All, ScenarioTest, testing::ValuesIn(Scripts()), [](const auto& info) {
  return std::filesystem::path(info.param).stem().string();
});

}  // namespace
}  // namespace quire
