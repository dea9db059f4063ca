#ifndef QUIRE_TESTS_CLIENTS_FAKE_INFERENCE_H_
#define QUIRE_TESTS_CLIENTS_FAKE_INFERENCE_H_

#include <grpcpp/grpcpp.h>
#include <quire/v1/inference.grpc.pb.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/address.h"
#include "common/mutex.h"

namespace quire {

// A coordinator of a few lines, on a free loopback port, for clients to be tested against.
//
// Token i of choice c is 1000 * c + i, its text "<id> ", its alternatives the ids above it, each
// with a log-probability smaller by 1. Generate honours n, max_new_tokens (4 if unset), logprobs
// and resume, and a test can replace or cut it.
class FakeInference final : public v1::Inference::Service {
 public:
  using Writer = grpc::ServerWriter<v1::GenerateEvent>;
  using GenerateFunction =
      std::function<grpc::Status(grpc::ServerContext*, const v1::GenerateRequest&, Writer*)>;

  // port 0: a free one. Another is shared with whoever holds it: a ClosedPort.
  explicit FakeInference(int port = 0);
  ~FakeInference() override;

  Address address() const { return {"127.0.0.1", static_cast<uint16_t>(port_)}; }
  std::string target() const { return address().ToString(); }

  // Before calls come.
  void set_generate(GenerateFunction generate) { generate_ = std::move(generate); }
  void set_token_time(std::chrono::microseconds time) { token_time_ = time; }
  // The stream breaks with `status` once it has sent so many tokens of choice 0, `times` times.
  void LoseAfter(size_t num_tokens, grpc::Status status, int times = 1);
  v1::GetLoadResponse& load() { return load_; }
  // At first one model, "tiny", with 50 tokens.
  v1::ListModelsResponse& models() { return models_; }

  // Cuts every connection and stops serving.
  void Kill();

  std::vector<v1::GenerateRequest> requests() const;
  void WaitForRequests(size_t count) const;
  std::set<std::string> cancelled() const;
  size_t max_running() const;

  // What set_generate replaces; for those that only add to it.
  grpc::Status DefaultGenerate(grpc::ServerContext* context, const v1::GenerateRequest& request,
                               Writer* writer);

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        Writer* writer) override;
  grpc::Status Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                      v1::CancelResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override;
  grpc::Status GetLoad(grpc::ServerContext*, const v1::GetLoadRequest*,
                       v1::GetLoadResponse* response) override;
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override;

  // Takes a token's time. Not OK: the request was cancelled, or the server killed.
  grpc::Status Pause(const std::string& request_id);

  int port_ = 0;
  GenerateFunction generate_;
  std::chrono::microseconds token_time_{0};
  v1::GetLoadResponse load_;
  v1::ListModelsResponse models_;

  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::vector<v1::GenerateRequest> requests_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, std::string> running_ QUIRE_GUARDED_BY(mutex_);
  std::set<std::string> cancelled_ QUIRE_GUARDED_BY(mutex_);
  size_t max_running_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool killed_ QUIRE_GUARDED_BY(mutex_) = false;
  size_t lose_after_ QUIRE_GUARDED_BY(mutex_) = 0;
  int losses_left_ QUIRE_GUARDED_BY(mutex_) = 0;
  grpc::Status loss_ QUIRE_GUARDED_BY(mutex_);

  std::unique_ptr<grpc::Server> server_;
};

// Events, as a scripted Generate sends them.
v1::GenerateEvent AcceptedEvent(const v1::GenerateRequest& request,
                                const std::string& worker = "w1");
v1::GenerateEvent DeltaEvent(uint32_t choice, uint32_t first_index,
                             const std::vector<uint32_t>& token_ids, const std::string& text);
v1::GenerateEvent FinishedEvent(uint32_t choice, v1::Finished::Reason reason,
                                uint32_t output_tokens);
inline uint32_t FakeToken(uint32_t choice, uint32_t index) { return 1000 * choice + index; }
std::string FakeText(uint32_t token_id);

}  // namespace quire

#endif  // QUIRE_TESTS_CLIENTS_FAKE_INFERENCE_H_
