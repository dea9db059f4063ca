#include "tests/clients/fake_inference.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/rpc_status.h"

namespace quire {

v1::GenerateEvent AcceptedEvent(const v1::GenerateRequest& request, const std::string& worker) {
  v1::GenerateEvent event;
  v1::Accepted* accepted = event.mutable_accepted();
  accepted->set_request_id(request.request_id());
  accepted->set_worker(worker);
  accepted->set_numerics_id("numerics");
  accepted->set_prompt_token_count(3);
  accepted->mutable_parameters()->set_n(std::max(request.sampling().n(), 1u));
  accepted->mutable_parameters()->set_temperature(request.sampling().temperature());
  accepted->mutable_parameters()->set_max_new_tokens(
      request.has_max_new_tokens() ? request.max_new_tokens() : 4);
  return event;
}

v1::GenerateEvent DeltaEvent(uint32_t choice, uint32_t first_index,
                             const std::vector<uint32_t>& token_ids, const std::string& text) {
  v1::GenerateEvent event;
  event.mutable_delta()->set_choice(choice);
  event.mutable_delta()->set_first_index(first_index);
  event.mutable_delta()->mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
  event.mutable_delta()->set_text(text);
  return event;
}

v1::GenerateEvent FinishedEvent(uint32_t choice, v1::Finished::Reason reason,
                                uint32_t output_tokens) {
  v1::GenerateEvent event;
  v1::Finished* finished = event.mutable_finished();
  finished->set_choice(choice);
  finished->set_reason(reason);
  finished->set_seed(7);
  finished->mutable_usage()->set_prompt_tokens(3);
  finished->mutable_usage()->set_output_tokens(output_tokens);
  finished->mutable_usage()->mutable_kv()->set_reserved_bytes(4096);
  finished->mutable_usage()->mutable_kv()->set_used_bytes(4000);
  finished->mutable_usage()->mutable_kv()->set_max_unused_tokens(15);
  finished->mutable_timings()->set_first_token_ms(1.5);
  return event;
}

std::string FakeText(uint32_t token_id) { return absl::StrCat(token_id, " "); }

FakeInference::FakeInference(int port) {
  v1::Model* model = models_.add_models();
  model->set_id("tiny");
  model->set_context_length(2048);
  model->set_vocabulary_size(50);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(),
                           &port_);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, port != 0);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeInference::~FakeInference() { Kill(); }

void FakeInference::Kill() {
  {
    MutexLock lock(mutex_);
    killed_ = true;
    changed_.NotifyAll();
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeInference::LoseAfter(size_t num_tokens, grpc::Status status, int times) {
  MutexLock lock(mutex_);
  lose_after_ = num_tokens;
  loss_ = std::move(status);
  losses_left_ = times;
}

std::vector<v1::GenerateRequest> FakeInference::requests() const {
  MutexLock lock(mutex_);
  return requests_;
}

void FakeInference::WaitForRequests(size_t count) const {
  MutexLock lock(mutex_);
  while (requests_.size() < count) changed_.Wait(mutex_);
}

std::set<std::string> FakeInference::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

size_t FakeInference::max_running() const {
  MutexLock lock(mutex_);
  return max_running_;
}

grpc::Status FakeInference::Generate(grpc::ServerContext* context,
                                     const v1::GenerateRequest* request, Writer* writer) {
  {
    MutexLock lock(mutex_);
    requests_.push_back(*request);
    running_.emplace(request->request_id(), request->tenant());
    max_running_ = std::max(max_running_, running_.size());
    changed_.NotifyAll();
  }
  const grpc::Status status =
      generate_ ? generate_(context, *request, writer) : DefaultGenerate(context, *request, writer);
  MutexLock lock(mutex_);
  running_.erase(request->request_id());
  return status;
}

grpc::Status FakeInference::DefaultGenerate(grpc::ServerContext* context,
                                            const v1::GenerateRequest& request, Writer* writer) {
  writer->Write(AcceptedEvent(request));
  const uint32_t n = std::max(request.sampling().n(), 1u);
  const uint32_t max_new_tokens = request.has_max_new_tokens() ? request.max_new_tokens() : 4;
  size_t sent = 0;
  for (uint32_t i = 0; i < max_new_tokens; ++i) {
    for (uint32_t choice = 0; choice < n; ++choice) {
      const bool had =
          static_cast<int>(choice) < request.resume().choices_size() &&
          static_cast<int>(i) < request.resume().choices(choice).emitted_token_ids_size();
      if (had) continue;
      const uint32_t id = FakeToken(choice, i);
      v1::GenerateEvent event = DeltaEvent(choice, i, {id}, FakeText(id));
      if (request.has_logprobs()) {
        v1::TokenLogprobs* logprobs = event.mutable_delta()->add_logprobs();
        for (uint32_t k = 0; k < request.logprobs(); ++k) {
          v1::TokenLogprobs::Alternative* alternative = logprobs->add_top();
          alternative->set_token_id(id + k);
          alternative->set_logprob(-0.5f - static_cast<float>(k));
        }
      }
      if (!writer->Write(event)) return grpc::Status::CANCELLED;
    }
    ++sent;
    {
      MutexLock lock(mutex_);
      if (losses_left_ > 0 && sent == lose_after_) {
        --losses_left_;
        return loss_;
      }
    }
    const grpc::Status paused = Pause(request.request_id());
    if (paused.ok()) continue;
    for (uint32_t choice = 0; choice < n; ++choice) {
      writer->Write(FinishedEvent(choice, v1::Finished::ABORTED, i + 1));
    }
    return paused;
  }
  for (uint32_t choice = 0; choice < n; ++choice) {
    writer->Write(FinishedEvent(choice, v1::Finished::LENGTH, max_new_tokens));
  }
  return grpc::Status::OK;
}

grpc::Status FakeInference::Pause(const std::string& request_id) {
  const auto until = FromSteadyMicros(SteadyMicros() + token_time_.count());
  MutexLock lock(mutex_);
  while (!killed_ && !cancelled_.contains(request_id) && token_time_.count() > 0 &&
         changed_.WaitUntil(mutex_, until)) {
  }
  if (killed_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
  if (!cancelled_.contains(request_id)) return grpc::Status::OK;
  return ToGrpc(absl::CancelledError("the client cancelled"));
}

grpc::Status FakeInference::Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                                   v1::CancelResponse* response) {
  MutexLock lock(mutex_);
  const auto found = running_.find(request->request_id());
  if (found != running_.end() && !found->second.empty() && found->second != request->tenant()) {
    return grpc::Status::OK;
  }
  response->set_found(found != running_.end());
  cancelled_.insert(request->request_id());
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeInference::Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) {
  for (const char c : request->text()) {
    response->add_token_ids(static_cast<unsigned char>(c));
    response->add_tokens(std::string(1, c));
  }
  return grpc::Status::OK;
}

grpc::Status FakeInference::Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) {
  for (const uint32_t id : request->token_ids())
    response->mutable_text()->push_back(static_cast<char>(id));
  return grpc::Status::OK;
}

grpc::Status FakeInference::ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) {
  *response = models_;
  return grpc::Status::OK;
}

grpc::Status FakeInference::GetLoad(grpc::ServerContext*, const v1::GetLoadRequest*,
                                    v1::GetLoadResponse* response) {
  *response = load_;
  return grpc::Status::OK;
}

grpc::Status FakeInference::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                          v1::GetServerInfoResponse* response) {
  response->set_version("9.9.9");
  return grpc::Status::OK;
}

}  // namespace quire
