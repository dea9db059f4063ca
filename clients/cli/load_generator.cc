#include "clients/cli/load_generator.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "clients/cli/arrivals.h"
#include "common/clock.h"

namespace quire {
namespace {

constexpr int64_t kReportMicros = 200'000;
constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

}  // namespace

double RequestSample::tpot_ms() const {
  return output_tokens > 1 ? (last_token - first_token) / 1e3 / (output_tokens - 1) : 0;
}

// Fills one record and tells the generator when it is whole.
class LoadGenerator::Recorder final : public GenerateHandler {
 public:
  explicit Recorder(LoadGenerator* generator) : generator_(generator) {
    record_.sent = SteadyMicros();
  }

  void OnAccepted(const v1::Accepted& accepted) override {
    record_.prompt_tokens = accepted.prompt_token_count();
  }
  void OnDelta(const v1::Delta& delta) override {
    if (delta.token_ids_size() == 0) return;
    const int64_t now = SteadyMicros();
    if (record_.first_token == 0) {
      record_.first_token = now;
    } else {
      record_.gaps.push_back(now - record_.last_token);
    }
    record_.last_token = now;
    record_.output_tokens += delta.token_ids_size();
    if (delta.choice() == 0) {
      record_.token_ids.insert(record_.token_ids.end(), delta.token_ids().begin(),
                               delta.token_ids().end());
      record_.logprobs.insert(record_.logprobs.end(), delta.logprobs().begin(),
                              delta.logprobs().end());
    }
    MutexLock lock(generator_->mutex_);
    generator_->progress_.num_tokens += delta.token_ids_size();
  }
  void OnFinished(const v1::Finished& finished) override {
    if (finished.choice() == 0) record_.usage = finished.usage();
  }
  void OnEnd(const absl::Status& status) override {
    record_.status = status;
    MutexLock lock(generator_->mutex_);
    ++generator_->progress_.num_ended;
    --generator_->progress_.num_in_flight;
    generator_->changed_.NotifyAll();
  }

  RequestSample& record() { return record_; }

 private:
  LoadGenerator* const generator_;
  RequestSample record_;
};

LoadGenerator::LoadGenerator(Client* client, std::function<v1::GenerateRequest(size_t)> make,
                             CallOptions options, std::function<void(const Progress&)> on_progress)
    : client_(client),
      make_(std::move(make)),
      options_(options),
      on_progress_(std::move(on_progress)) {}

std::vector<RequestSample> LoadGenerator::Run(const LoadShape& shape) {
  PoissonArrivals arrivals(shape.request_rate, shape.seed);
  const int64_t started = SteadyMicros();
  const int64_t last_begin = shape.begin_within.has_value()
                                 ? started + std::chrono::microseconds(*shape.begin_within).count()
                                 : kForever;
  std::deque<Recorder> recorders;  // a deque: elements stay where they are
  for (size_t i = 0; i < shape.num_requests; ++i) {
    v1::GenerateRequest request = make_(i);
    if (!WaitForTurn(shape, i, started + arrivals.Next(), last_begin)) break;
    {
      MutexLock lock(mutex_);
      ++progress_.num_in_flight;
    }
    auto call = client_->Start(std::move(request), &recorders.emplace_back(this), options_);
    bool interrupted = false;
    {
      MutexLock lock(mutex_);
      calls_.push_back(call);
      interrupted = interrupted_;
    }
    if (interrupted) call->Cancel();
  }
  for (bool done = false; !done;) {
    {
      MutexLock lock(mutex_);
      if (progress_.num_in_flight > 0) WaitForChange(kForever);
      done = progress_.num_in_flight == 0;
    }
    Report();
  }
  std::vector<std::weak_ptr<ClientStream>> calls;
  {
    MutexLock lock(mutex_);
    calls.swap(calls_);
  }
  for (const auto& call : calls) {
    if (const auto living = call.lock())
      living->Wait().IgnoreError();  // its OnEnd may not have returned yet
  }
  std::vector<RequestSample> records;
  records.reserve(recorders.size());
  for (Recorder& recorder : recorders) records.push_back(std::move(recorder.record()));
  return records;
}

bool LoadGenerator::WaitForTurn(const LoadShape& shape, size_t index, int64_t due,
                                int64_t last_begin) {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (interrupted_) return false;
      const int64_t now = SteadyMicros();
      if (index >= shape.max_in_flight && now > last_begin) return false;
      const bool has_room = progress_.num_in_flight < shape.max_in_flight;
      if (has_room && now >= due) return true;
      WaitForChange(has_room ? due : kForever);
    }
    Report();
  }
}

void LoadGenerator::WaitForChange(int64_t deadline) {
  const int64_t until = on_progress_ ? std::min(deadline, next_report_) : deadline;
  if (until == kForever) {
    changed_.Wait(mutex_);
  } else {
    changed_.WaitUntil(mutex_, FromSteadyMicros(until));
  }
}

void LoadGenerator::Report() {
  const int64_t now = SteadyMicros();
  if (!on_progress_ || now < next_report_) return;
  next_report_ = now + kReportMicros;
  Progress progress;
  {
    MutexLock lock(mutex_);
    progress = progress_;
  }
  on_progress_(progress);
}

void LoadGenerator::Interrupt() {
  std::vector<std::weak_ptr<ClientStream>> calls;
  {
    MutexLock lock(mutex_);
    interrupted_ = true;
    calls = calls_;
    changed_.NotifyAll();
  }
  for (const auto& call : calls) {
    if (const auto living = call.lock()) living->Cancel();
  }
}

}  // namespace quire
