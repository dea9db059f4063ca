#include "coordinator/worker_client/worker_link.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include "absl/strings/str_cat.h"
#include "common/request_fields.h"
#include "tests/fakes/recording_sink.h"

namespace quire {
namespace {

using testing::HasSubstr;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

// The time, which a test makes; what is scheduled runs by Advance.
class ManualTimers final : public Timers {
 public:
  int64_t Now() const override { return now_; }
  Id Schedule(int64_t at, std::function<void()> function) override {
    scheduled_.emplace_back(at, std::move(function));
    return scheduled_.size();
  }
  void Cancel(Id) override {}
  void Advance(int64_t micros) {
    now_ += micros;
    std::vector<std::pair<int64_t, std::function<void()>>> scheduled;
    scheduled.swap(scheduled_);
    for (auto& [at, function] : scheduled) {
      if (at <= now_) {
        function();
      } else {
        scheduled_.emplace_back(at, std::move(function));
      }
    }
  }

 private:
  int64_t now_ = 1'000'000;
  std::vector<std::pair<int64_t, std::function<void()>>> scheduled_;
};

// Sessions as the link opened them, by hand; files are never answered.
struct Sessions {
  std::vector<std::shared_ptr<WorkerConnector::Handler>> handlers;
  std::vector<std::shared_ptr<RecordingSink<SessionRequest>>> sinks;
};

class ManualConnector final : public WorkerConnector {
 public:
  explicit ManualConnector(Sessions* sessions) : sessions_(sessions) {}
  std::shared_ptr<Sink> OpenSession(std::shared_ptr<Handler> handler) override {
    sessions_->handlers.push_back(std::move(handler));
    sessions_->sinks.push_back(std::make_shared<RecordingSink<SessionRequest>>());
    return sessions_->sinks.back();
  }
  CancelFetch FetchFiles(const std::string&,
                         std::function<void(absl::StatusOr<ModelFiles>)>) override {
    return [] {};
  }

 private:
  Sessions* const sessions_;
};

class WorkerLinkTest : public testing::Test {
 protected:
  WorkerLinkTest() { Connect(); }
  ~WorkerLinkTest() override { link_->Shutdown(absl::CancelledError("the test is over")); }

  // With a new link, to the same worker.
  void Connect(int64_t silence_micros = WorkerLink::kSilenceMicros) {
    if (link_ != nullptr) link_->Shutdown(absl::CancelledError("another link takes over"));
    WorkerLink::Context context{"c", &timers_, nullptr, nullptr, nullptr, silence_micros};
    context.admit = [this](const WorkerLink&, const worker::v1::Opened& opened) {
      return admit_(opened);
    };
    link_ = WorkerLink::Create(1, "a:1", std::make_unique<ManualConnector>(&sessions_), context);
    link_->Start();
  }

  static SessionEvent Opened(const std::string& name, const std::string& incarnation = "1") {
    SessionEvent event;
    event.mutable_opened()->set_incarnation(incarnation);
    event.mutable_opened()->mutable_worker()->set_name(name);
    event.mutable_opened()->mutable_worker()->set_model("m");
    return event;
  }
  void Say(SessionEvent event) { sessions_.handlers.back()->OnMessage(std::move(event)); }

  ManualTimers timers_;
  Sessions sessions_;
  std::function<absl::Status(const worker::v1::Opened&)> admit_ = [](const auto&) {
    return absl::OkStatus();
  };
  std::shared_ptr<WorkerLink> link_;
};

class NoReceiver final : public TokenReceiver {
 public:
  void OnPromptLogprobs(const worker::v1::EntryLogprobs&) override {}
  void OnTokens(uint32_t, uint32_t, uint32_t, absl::Span<const uint32_t>,
                const worker::v1::EntryLogprobs*) override {}
  void OnNotice(const v1::Notice&) override {}
  void OnFinish(const worker::v1::Finish&) override {}
  void OnRejected(uint32_t, const absl::Status&) override {}
  void OnWorkerLost(uint32_t, WorkerLoss how, const absl::Status&) override { loss = how; }
  void OnWorkerDraining(uint32_t) override {}
  void OnMessageEnd() override {}

  std::optional<WorkerLoss> loss;
};

TEST_F(WorkerLinkTest, CountsWhatItPlacedBesideWhatOthersHave) {
  Say(Opened("one"));
  SessionEvent load;
  load.mutable_load()->set_running(20);
  load.mutable_load()->set_own_sequences(0);
  Say(load);
  worker::v1::Submit submit;
  submit.set_key(1);
  submit.mutable_parameters()->set_n(3);
  ASSERT_TRUE(link_->Submit(submit, std::make_shared<NoReceiver>()));
  EXPECT_EQ(link_->View().snapshot.load(), 23u);
  load.mutable_load()->set_running(23);
  load.mutable_load()->set_own_sequences(3);
  Say(load);
  EXPECT_EQ(link_->View().snapshot.load(), 23u);
}

TEST_F(WorkerLinkTest, AWorkerThatDoesNotSayWhoseItsSequencesAreCountsThemOnce) {
  Say(Opened("one"));
  worker::v1::Submit submit;
  submit.set_key(1);
  submit.mutable_parameters()->set_n(3);
  ASSERT_TRUE(link_->Submit(submit, std::make_shared<NoReceiver>()));
  SessionEvent load;
  load.mutable_load()->set_running(2);
  Say(load);
  EXPECT_EQ(link_->View().snapshot.load(), 3u);
  load.mutable_load()->set_waiting(1);
  Say(load);
  EXPECT_EQ(link_->View().snapshot.load(), 3u);
}

TEST_F(WorkerLinkTest, EndsTheSessionOfAWorkerThatEnds) {
  Say(Opened("one"));
  const auto sink = sessions_.sinks.back();
  const auto receiver = std::make_shared<NoReceiver>();
  worker::v1::Submit submit;
  submit.set_key(1);
  submit.mutable_parameters()->set_n(1);
  ASSERT_TRUE(link_->Submit(submit, receiver));
  SessionEvent event;
  event.mutable_load()->set_draining(true);
  Say(event);
  event.mutable_closing();
  Say(event);
  EXPECT_TRUE(sink->closed.has_value());
  EXPECT_EQ(receiver->loss, WorkerLoss::kDrained);
  EXPECT_FALSE(link_->View().is_open);
  // Whatever has its address next is found.
  timers_.Advance(WorkerLink::kRetryMicros);
  Say(Opened("one", "2"));
  EXPECT_TRUE(link_->View().is_open);
}

TEST_F(WorkerLinkTest, ASecondOpenedChangesNothing) {
  Say(Opened("one"));
  ASSERT_TRUE(link_->View().is_open);
  int num_asked = 0;
  admit_ = [&](const auto&) {
    ++num_asked;
    return absl::OkStatus();
  };
  Say(Opened("two", "2"));
  EXPECT_EQ(link_->View().info.name(), "one");
  EXPECT_EQ(link_->View().incarnation, "1");
  EXPECT_EQ(num_asked, 0);
  Say(Opened("", ""));
  EXPECT_FALSE(sessions_.sinks.back()->closed.has_value());
}

TEST_F(WorkerLinkTest, ARefusalEndsTheSessionThatItIsOf) {
  admit_ = [this](const auto&) {
    link_->Restart("as another thread might, meanwhile");
    return absl::AlreadyExistsError("no");
  };
  Say(Opened("one"));
  ASSERT_EQ(sessions_.sinks.size(), 2u);
  ASSERT_TRUE(sessions_.sinks[0]->closed.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*sessions_.sinks[0]->closed)) << "by the restart";
  EXPECT_FALSE(sessions_.sinks[1]->closed.has_value());
  admit_ = [](const auto&) { return absl::OkStatus(); };
  Say(Opened("one"));
  EXPECT_TRUE(link_->View().is_open);
  EXPECT_THAT(link_->View().why, testing::Not(HasSubstr("no")));
}

TEST_F(WorkerLinkTest, WhoSaysNoProperNameIsNotTaken) {
  const std::string large(1 << 20, 'x');
  std::vector<std::pair<SessionEvent, std::string>> wrong;
  for (const std::string& text : {std::string("two\nlines"), large, std::string("\xff")}) {
    wrong.emplace_back(Opened(text), "Opened.worker.name");
    wrong.emplace_back(Opened("one", text), "Opened.incarnation");
    const auto add = [&](const char* field) {
      wrong.emplace_back(Opened("one"), absl::StrCat("Opened.worker.", field));
      return wrong.back().first.mutable_opened()->mutable_worker();
    };
    add("model")->set_model(text);
    add("numerics_id")->set_numerics_id(text);
    add("dtype")->set_dtype(text);
    add("kv_cache")->set_kv_cache(text);
    add("version")->set_version(text);
  }
  wrong.emplace_back(Opened(""), "Opened.worker.name");
  wrong.emplace_back(Opened("one", ""), "Opened.incarnation");
  for (const auto& [opened, field] : wrong) {
    Say(opened);
    EXPECT_FALSE(link_->View().is_open) << field;
    const absl::Status closed = sessions_.sinks.back()->closed.value_or(absl::OkStatus());
    EXPECT_TRUE(absl::IsInvalidArgument(closed)) << closed;
    EXPECT_THAT(closed.message(), HasSubstr(field));
    EXPECT_THAT(link_->View().why, HasSubstr(field));
    EXPECT_LT(link_->View().why.size(), 200u);
    sessions_.handlers.back()->OnClosed(closed);
    timers_.Advance(WorkerLink::kRetryMicros);
  }
  Say(Opened("one"));
  EXPECT_TRUE(link_->View().is_open);
}

TEST_F(WorkerLinkTest, AViewIsSmallWhateverTheWorkerSends) {
  const std::string large(1 << 20, 'x');
  SessionEvent opened = Opened("one");
  const auto add_unknown = [&](google::protobuf::Message* message) {
    message->GetReflection()->MutableUnknownFields(message)->AddLengthDelimited(1000, large);
  };
  add_unknown(opened.mutable_opened()->mutable_worker());
  add_unknown(opened.mutable_opened()->mutable_worker()->mutable_kv());
  Say(opened);
  SessionEvent load;
  add_unknown(load.mutable_load());
  load.mutable_load()->add_tenants_over_share(large);
  for (int i = 0; i < 10'000; ++i) load.mutable_load()->add_tenants_over_share("t");
  Say(load);
  const WorkerView view = link_->View();
  EXPECT_LT(view.info.ByteSizeLong() + view.load.ByteSizeLong(), 1000u);
  EXPECT_THAT(view.load.tenants_over_share(), testing::Contains("t"));
  sessions_.handlers.back()->OnClosed(absl::UnavailableError("two\nlines " + large));
  EXPECT_THAT(link_->View().why, HasSubstr("two\\x0alines"));
  EXPECT_LT(link_->View().why.size(), 2000u);
}

TEST_F(WorkerLinkTest, AnswersUntilItIsSilentNotWhileTheCoordinatorStoodStill) {
  EXPECT_FALSE(link_->View().answers);
  Say(Opened("one"));
  link_->Tick();
  EXPECT_TRUE(link_->View().answers);
  // A pause of the coordinator's own, before the next tick tells it.
  timers_.Advance(10 * WorkerLink::kSilenceMicros);
  EXPECT_TRUE(link_->View().answers);
  for (int64_t silent = 0; silent <= WorkerLink::kSilenceMicros; silent += 250'000) {
    EXPECT_TRUE(link_->View().answers) << silent;
    link_->Tick();
    timers_.Advance(250'000);
  }
  link_->Tick();
  EXPECT_FALSE(link_->View().answers);
  EXPECT_TRUE(link_->View().is_open);
}

TEST_F(WorkerLinkTest, ALongerSilenceMayBeAllowed) {
  const int64_t allowed = 3 * WorkerLink::kSilenceMicros;
  Connect(allowed);
  Say(Opened("one"));
  for (int64_t silent = 0; silent <= allowed; silent += 250'000) {
    link_->Tick();
    EXPECT_TRUE(link_->View().answers) << silent;
    timers_.Advance(250'000);
  }
  link_->Tick();
  EXPECT_FALSE(link_->View().answers);
}

TEST_F(WorkerLinkTest, AConnectionThatEndsAfterSilenceIsNoDeath) {
  for (const bool is_silent : {false, true}) {
    Connect(20 * WorkerLink::kSilenceMicros);
    Say(Opened("one"));
    link_->Tick();
    const auto receiver = std::make_shared<NoReceiver>();
    worker::v1::Submit submit;
    submit.set_key(1);
    submit.mutable_parameters()->set_n(1);
    ASSERT_TRUE(link_->Submit(submit, receiver));
    timers_.Advance(is_silent ? 2 * WorkerLink::kSilenceMicros : 100'000);
    sessions_.handlers.back()->OnClosed(absl::UnavailableError("keepalive"));
    EXPECT_EQ(receiver->loss, is_silent ? WorkerLoss::kUnheard : WorkerLoss::kGone);
  }
}

TEST_F(WorkerLinkTest, WhatIsTakenAwayBeforeItIsSentIsCancelledAfterIt) {
  Say(Opened("one"));
  link_->Tick();
  auto& sink = *sessions_.sinks.back();
  sink.before_write = [this] {
    for (int i = 0; i < 7; ++i) {
      timers_.Advance(250'000);
      link_->Tick();
    }
  };
  worker::v1::Submit submit;
  submit.set_key(7);
  submit.mutable_parameters()->set_n(1);
  ASSERT_TRUE(link_->Submit(submit, std::make_shared<NoReceiver>()));
  std::vector<std::string> sent;
  for (const SessionRequest& message : sink.written) {
    if (message.has_submit()) sent.push_back("submit");
    if (message.has_cancel() && message.cancel().key() == 7) sent.push_back("cancel");
  }
  EXPECT_THAT(sent, testing::ElementsAre("cancel", "submit", "cancel"));
}

TEST_F(WorkerLinkTest, ASessionWhoseOpenHasNoAnswerIsGivenUp) {
  const auto tick = [this] {
    timers_.Advance(250'000);
    link_->Tick();
  };
  link_->Tick();
  for (int64_t silent = 250'000; silent < WorkerLink::kOpenMicros; silent += 250'000) tick();
  EXPECT_FALSE(sessions_.sinks.back()->closed.has_value());
  tick();
  ASSERT_TRUE(sessions_.sinks.back()->closed.has_value());
  sessions_.handlers.back()->OnClosed(*sessions_.sinks.back()->closed);
  timers_.Advance(WorkerLink::kRetryMicros);
  EXPECT_EQ(sessions_.sinks.size(), 2u);
  Say(Opened("one"));
  EXPECT_TRUE(link_->View().is_open);
}

}  // namespace
}  // namespace quire
