#include "clients/cpp/client.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/credentials.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

void SetDeadline(grpc::ClientContext& context, const CallOptions& options) {
  if (!options.timeout.has_value()) return;
  context.set_deadline(gpr_time_from_millis(options.timeout->count(), GPR_TIMESPAN));
}

}  // namespace

std::string MakeRequestId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x%08x%08x", device(), device(), device(), device());
}

Client::Client(const std::vector<Address>& targets, const RetryOptions& retry, const TlsFiles& tls)
    : retry_(retry), targets_(std::make_unique<Targets>(targets, Credentials(tls).channel())) {}

std::shared_ptr<ClientStream> Client::Start(v1::GenerateRequest request, GenerateHandler* handler,
                                            const CallOptions& options) {
  if (request.request_id().empty()) request.set_request_id(MakeRequestId());
  auto call = std::make_shared<ClientStream>(targets_.get(), retry_, std::move(request),
                                             options.timeout, handler);
  call->Start();
  return call;
}

absl::Status Client::Generate(v1::GenerateRequest request, GenerateHandler* handler,
                              const CallOptions& options) {
  return Start(std::move(request), handler, options)->Wait();
}

template <typename Request, typename Response>
absl::StatusOr<Response> Client::Call(Method<Request, Response> method, const Request& request,
                                      const CallOptions& options) {
  RetryPolicy policy(retry_, targets_->size());
  CallOptions left = options;
  const int64_t began = SteadyMicros();
  for (size_t target = targets_->preferred();;) {
    grpc::ClientContext context;
    SetDeadline(context, left);
    Response response;
    const absl::Status status =
        StatusOfCall((targets_->stub(target).*method)(&context, request, &response));
    const auto wait = policy.AfterLoss(status, /*num_tokens=*/0);
    if (!wait.has_value()) {
      if (!absl::IsUnavailable(status)) targets_->Prefer(target);
      if (!status.ok()) return status;
      return response;
    }
    if (options.timeout.has_value()) {
      const auto passed = std::chrono::microseconds(SteadyMicros() - began);
      left.timeout =
          *options.timeout - *wait - std::chrono::duration_cast<std::chrono::milliseconds>(passed);
      if (left.timeout->count() <= 0) {
        return absl::DeadlineExceededError(
            absl::StrCat("no time left to ask again after: ", status.message()));
      }
    }
    target = (target + 1) % targets_->size();
    targets_->Wait(target, std::chrono::microseconds(*wait).count());
  }
}

void Client::Wait(std::chrono::milliseconds time) const {
  targets_->Wait(targets_->preferred(), std::chrono::microseconds(time).count());
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      const CallOptions& options) {
  return Call(&v1::Inference::Stub::Tokenize, request, options);
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request,
                                                          const CallOptions& options) {
  return Call(&v1::Inference::Stub::Detokenize, request, options);
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels(const CallOptions& options) {
  return Call(&v1::Inference::Stub::ListModels, v1::ListModelsRequest(), options);
}

absl::StatusOr<v1::Model> Client::GetModel(const v1::GetModelRequest& request,
                                           const CallOptions& options) {
  return Call(&v1::Inference::Stub::GetModel, request, options);
}

absl::StatusOr<v1::GetLoadResponse> Client::GetLoad(const CallOptions& options) {
  return Call(&v1::Inference::Stub::GetLoad, v1::GetLoadRequest(), options);
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo(const CallOptions& options) {
  return Call(&v1::Inference::Stub::GetServerInfo, v1::GetServerInfoRequest(), options);
}

absl::StatusOr<bool> Client::Cancel(absl::string_view request_id, absl::string_view tenant,
                                    const CallOptions& options) {
  v1::CancelRequest request;
  request.set_request_id(std::string(request_id));
  request.set_tenant(std::string(tenant));
  bool found = false;
  bool asked = false;
  absl::Status last_error;
  for (size_t target = 0; target < targets_->size(); ++target) {
    grpc::ClientContext context;
    SetDeadline(context, options);
    v1::CancelResponse response;
    const grpc::Status status = targets_->stub(target).Cancel(&context, request, &response);
    if (status.ok()) {
      asked = true;
      found |= response.found();
    } else {
      last_error = FromGrpc(status);
    }
  }
  if (!asked) return last_error;
  return found;
}

}  // namespace quire
