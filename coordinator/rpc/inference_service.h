#ifndef QUIRE_COORDINATOR_RPC_INFERENCE_SERVICE_H_
#define QUIRE_COORDINATOR_RPC_INFERENCE_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include <quire/v1/inference.grpc.pb.h>
#include "absl/status/status.h"
#include "coordinator/registry/placer.h"
#include "coordinator/stream/request_stream.h"
#include "coordinator/stream/stream_table.h"
#include "coordinator/stream/work_pool.h"

namespace quire {

class GenerateCall;

// Of a message of the public service, in either direction.
inline constexpr size_t kMaxPublicMessageBytes = 4 << 20;

// Generate's calls come through a GenerateServer, all others by callbacks.
using InferenceMethods = v1::Inference::WithRawMethod_Generate<
    v1::Inference::WithCallbackMethod_Cancel<v1::Inference::WithCallbackMethod_Tokenize<
        v1::Inference::WithCallbackMethod_Detokenize<v1::Inference::WithCallbackMethod_ListModels<
            v1::Inference::WithCallbackMethod_GetModel<v1::Inference::WithCallbackMethod_GetLoad<
                v1::Inference::WithCallbackMethod_GetServerInfo<v1::Inference::Service>>>>>>>>;

// quire.v1.Inference: the thin edge over streams, placement and models. Thread safe.
class InferenceService final : public InferenceMethods {
 public:
  struct Context {
    WorkerRegistry* registry;
    Placer* placer;
    StreamTable* streams;
    WorkPool* work_pool;  // tokenizes
    WorkPool* read_pool;  // reads large requests: their time runs, and nobody can cancel them yet
    RequestStream::Context stream;
    // A Generate call that never became a request; its record has the id and the status alone.
    std::function<void(const RequestRecord&)> on_refused;  // may be null
    // Whether requests share cached prefixes only with those of the same tenant.
    bool separate_tenants = false;
    // In which a client must take what is left for it once its request has ended, in microseconds.
    int64_t delivery_timeout = 60'000'000;
  };
  explicit InferenceService(const Context& context);
  int64_t delivery_timeout() const { return context_.delivery_timeout; }

  // A call has arrived, in whose thread this is.
  void Generate(GenerateCall* call);
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  struct NamedTokenizer {
    std::shared_ptr<const Tokenizer> tokenizer;
    uint32_t vocabulary_size = 0;  // the model's, which may be larger than the tokenizer's
  };
  // Checks, tokenizes and begins a request, on the work pool.
  // What a call asked for that came then (steady, microseconds): begins it, or refuses it.
  void Serve(GenerateCall* call, int64_t received_at);
  void Refuse(GenerateCall* call, const v1::GenerateRequest& request, int64_t received_at,
              const absl::Status& status) const;
  void Prepare(const v1::GenerateRequest& request, const ResumeTokens& resume,
               const std::shared_ptr<RequestStream>& stream) const;
  // Runs `work` on the pool and finishes the call with its status.
  // `request`: what the call holds while it waits.
  grpc::ServerUnaryReactor* OnPool(const google::protobuf::Message& request,
                                   std::function<absl::Status()> work);
  absl::StatusOr<NamedTokenizer> TokenizerOf(const std::string& model) const;

  const Context context_;
  const int64_t started_at_;
  std::atomic<uint64_t> next_key_{1};
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_INFERENCE_SERVICE_H_
