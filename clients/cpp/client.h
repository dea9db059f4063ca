#ifndef QUIRE_CLIENTS_CPP_CLIENT_H_
#define QUIRE_CLIENTS_CPP_CLIENT_H_

#include <quire/v1/inference.grpc.pb.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/client_stream.h"
#include "clients/cpp/generate_handler.h"
#include "clients/cpp/retry_policy.h"
#include "clients/cpp/targets.h"
#include "common/address.h"
#include "common/tls_files.h"

namespace quire {

struct CallOptions {
  std::optional<std::chrono::milliseconds> timeout;  // of the whole call; empty: none
};

// A client of Quire over one or several coordinators.
//
// A call goes to the coordinator that answered last; one that is UNAVAILABLE is passed over, and
// all are asked again, after waits, as RetryOptions say. A Generate stream that is lost on the way
// goes on elsewhere with the tokens it has, so that the handler sees one stream without gap or
// repeat. Errors are the server's, with its words; FieldOf and RetryDelayOf (common/rpc_status.h)
// read their details. Thread safe.
class Client {
 public:
  // With `tls` every connection is by mutual TLS: a target's certificate must name the host of its
  // address. Files that are replaced hold for connections made a few seconds later.
  // REQUIRES: targets is not empty; CheckTlsFiles(tls) is OK; every stream has ended before the
  // client does.
  explicit Client(const std::vector<Address>& targets, const RetryOptions& retry = {},
                  const TlsFiles& tls = {});

  // Begins a generation and returns at once. An empty request_id is set here, before the first
  // send, so that a repeated send is known for one. The handler must live until its OnEnd returned.
  std::shared_ptr<ClientStream> Start(v1::GenerateRequest request, GenerateHandler* handler,
                                      const CallOptions& options = {});

  // The same, until it has ended. Not from a handler.
  absl::Status Generate(v1::GenerateRequest request, GenerateHandler* handler,
                        const CallOptions& options = {});

  // For those who ask again and again: waits so long, less if a coordinator can be reached where
  // none could before.
  void Wait(std::chrono::milliseconds time) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {});
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                    const CallOptions& options = {});
  absl::StatusOr<v1::ListModelsResponse> ListModels(const CallOptions& options = {});
  absl::StatusOr<v1::Model> GetModel(const v1::GetModelRequest& request,
                                     const CallOptions& options = {});
  absl::StatusOr<v1::GetLoadResponse> GetLoad(const CallOptions& options = {});
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const CallOptions& options = {});

  // Stops a request wherever it lives: every coordinator is asked, once. `tenant`: the request's.
  // Whether one knew it. An error only if none could be asked.
  absl::StatusOr<bool> Cancel(absl::string_view request_id, absl::string_view tenant = "",
                              const CallOptions& options = {});

 private:
  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Inference::Stub::*)(grpc::ClientContext*, const Request&,
                                                       Response*);

  // One target after the other, as the retry policy says, until one is not UNAVAILABLE.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(Method<Request, Response> method, const Request& request,
                                const CallOptions& options);

  const RetryOptions retry_;
  const std::unique_ptr<Targets> targets_;
};

// A new request id: 128 random bits in hexadecimal.
std::string MakeRequestId();

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_CLIENT_H_
