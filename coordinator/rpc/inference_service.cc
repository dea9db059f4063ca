#include "coordinator/rpc/inference_service.h"

#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/request_fields.h"
#include "common/rpc_status.h"
#include "common/steady_deadline.h"
#include "common/version.h"
#include "coordinator/rpc/describe.h"
#include "coordinator/rpc/generate_call.h"
#include "coordinator/rpc/prepare.h"
#include "coordinator/rpc/validate.h"

namespace quire {
namespace {

// How long before a deadline the server ends a request, so that the details still arrive.
constexpr int64_t kBeforeDeadlineMicros = 20'000;

// What one tenant may have of the work pool's queue, once a request has named one (docs/adr/0008).
constexpr double kTenantShareOfPool = 0.5;
// Tokenize and Detokenize, of which a client waits for few: beside the tenants, none of which can
// have such a name.
constexpr char kTextCalls[] = "\n";
constexpr double kTextCallsShareOfPool = 0.125;
// Requests up to this size are read as they arrive: it takes less time than a turn in the pool.
constexpr size_t kSmallRequestBytes = 64 << 10;
// Of what waits to be read, for the calls of one machine.
constexpr double kHostShareOfPool = 0.5;

// "ipv4:10.0.0.1:1234" without the port.
std::string HostOf(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }

std::string MakeRequestId() {
  // From the system: whoever guesses another's id could cancel the request or take it over.
  static thread_local std::random_device random;
  return absl::StrFormat("r-%08x%08x%08x%08x", random(), random(), random(), random());
}

struct Deadline {
  std::optional<int64_t> at;  // steady, microseconds
  std::string name;
};

// The earlier of the call's own deadline and timeout_ms.
Deadline DeadlineOf(const grpc::ServerContext& context, const v1::GenerateRequest& request,
                    int64_t received_at) {
  Deadline deadline;
  if (const auto left = MicrosUntil(context.raw_deadline()); left.has_value()) {
    deadline.at = SteadyMicros() + *left - kBeforeDeadlineMicros;
    deadline.name = "the call's deadline";
  }
  if (request.has_timeout_ms()) {
    const int64_t at = received_at + int64_t{request.timeout_ms()} * 1000;
    if (!deadline.at.has_value() || at < *deadline.at) deadline = {at, "timeout_ms"};
  }
  return deadline;
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

bool Parse(grpc::ByteBuffer message, v1::GenerateRequest* request) {
  return grpc::SerializationTraits<v1::GenerateRequest>::Deserialize(&message, request).ok();
}

absl::Status NotARequest() {
  return absl::InvalidArgumentError(
      "the message is not a GenerateRequest: its bytes do not parse, or a string is not UTF-8");
}

// Checks the request and moves its resumed tokens, accounted for, out of it.
absl::Status Admit(v1::GenerateRequest* request, StreamTable* streams, ResumeTokens* resume) {
  if (absl::Status s = ValidateRequest(*request); !s.ok()) return s;
  if (!request->has_resume()) return absl::OkStatus();
  size_t num_bytes = 0;
  for (const auto& choice : request->resume().choices()) {
    num_bytes += sizeof(std::vector<uint32_t>) + sizeof(uint32_t) * choice.emitted_token_ids_size();
  }
  auto charge = streams->HoldBytes(request->tenant(), num_bytes);
  if (!charge.ok()) return charge.status();
  *resume = ResumeOf(*request, *std::move(charge));
  google::protobuf::RepeatedPtrField<v1::Resume::Choice> dropped;  // Clear would keep the memory
  dropped.Swap(request->mutable_resume()->mutable_choices());
  return absl::OkStatus();
}

// `work`: what the pool does with requests.
absl::Status PoolIsFull(WorkPool* pool, absl::string_view work) {
  return WithRetryDelay(
      absl::ResourceExhaustedError(absl::StrCat("too many requests wait to be ", work)),
      pool->RetryAfterMs());
}

// Of a token's id and spelling, or a text, in an answer: what is not the text itself.
constexpr size_t kMostBytesBesideToken = 16;

absl::Status AnswerTooLarge(const char* field, const std::string& asked,
                            const std::string& answer) {
  return WithField(absl::InvalidArgumentError(absl::StrCat(
                       field, " is ", asked, ": ", answer, " would take more than the ",
                       kMaxPublicMessageBytes, " bytes of a message")),
                   field);
}

// A unary call whose answer is made elsewhere. Deletes itself.
class PooledCall final : public grpc::ServerUnaryReactor {
 public:
  void OnDone() override { delete this; }
};

}  // namespace

InferenceService::InferenceService(const Context& context)
    : context_(context), started_at_(SteadyMicros()) {}

void InferenceService::Generate(GenerateCall* call) {
  const int64_t received_at = SteadyMicros();
  const size_t num_bytes = call->request().Length();
  if (num_bytes <= kSmallRequestBytes) {
    Serve(call, received_at);
    return call->Served();
  }
  // Those that come after it do not wait until it is read, but for others of the same machine.
  const WorkPool::Terms terms{"\n" + HostOf(call->context().peer()), num_bytes, kHostShareOfPool};
  const bool posted = context_.read_pool->Post(
      [this, call, received_at] {
        Serve(call, received_at);
        call->Served();
      },
      terms);
  if (posted) return;
  Refuse(call, {}, received_at, PoolIsFull(context_.read_pool, "read"));
  call->Served();
}

void InferenceService::Refuse(GenerateCall* call, const v1::GenerateRequest& request,
                              int64_t received_at, const absl::Status& status) const {
  // Names that were not checked do not get into the log.
  RequestRecord record;
  if (ValidateName(request.request_id(), "request_id").ok()) {
    record.request_id = request.request_id();
  }
  record.status = status;
  record.total = SteadyMicros() - received_at;
  if (context_.on_refused) context_.on_refused(record);
  call->writer()->Abort(status);
}

void InferenceService::Serve(GenerateCall* call, int64_t received_at) {
  v1::GenerateRequest request;
  ResumeTokens resume;
  const absl::Status valid =
      Parse(call->request(), &request) ? Admit(&request, context_.streams, &resume) : NotARequest();
  const std::shared_ptr<ClientWriter> writer = call->writer();
  if (!valid.ok()) return Refuse(call, request, received_at, valid);
  const std::string request_id =
      request.request_id().empty() ? MakeRequestId() : request.request_id();
  const std::string fingerprint = Fingerprint(request);
  const Deadline deadline = DeadlineOf(call->context(), request, received_at);
  const bool is_resumed = resume.has_tokens() || WasAccepted(request);
  std::shared_ptr<RequestStream> stream;
  bool is_new = false;
  for (bool attached = false; !attached;) {
    auto found = context_.streams->FindOrMake(
        request_id, fingerprint,
        [&] {
          return std::make_shared<RequestStream>(next_key_.fetch_add(1), request_id, fingerprint,
                                                 context_.stream, received_at);
        },
        request.tenant(), is_resumed);
    if (!found.ok()) return Refuse(call, request, received_at, found.status());
    call->Hold(std::move(found->slot));
    stream = std::move(found->stream);
    is_new = found->is_new;
    writer->Attach(stream, resume);
    // One that has failed since it was found is none to join: the table makes another.
    attached = stream->Attach(writer, resume, deadline.at, deadline.name);
  }
  // A client that went away before this line was told of a stream that did not know it yet.
  if (writer->is_aborted()) stream->ClientGone(writer.get());
  // Nobody else begins a new request, though another client may have taken it over already.
  if (!is_new) return;
  // One that has run already waits for room.
  if (!is_resumed) {
    if (absl::Status full = context_.placer->CheckRoom(request); !full.ok()) {
      stream->End(full);
      return;
    }
  }
  if (request.queue_timeout_ms() > 0) stream->LimitQueueing(request.queue_timeout_ms());
  const WorkPool::Terms terms{request.tenant(), request.SpaceUsedLong(),
                              context_.streams->knows_tenants() ? kTenantShareOfPool : 1};
  const bool posted = context_.work_pool->Post(
      [this, stream, resume, copy = std::move(request)] { Prepare(copy, resume, stream); }, terms);
  if (!posted) stream->End(PoolIsFull(context_.work_pool, "tokenized"));
}

void InferenceService::Prepare(const v1::GenerateRequest& request, const ResumeTokens& resume,
                               const std::shared_ptr<RequestStream>& stream) const {
  if (stream->has_ended()) return;  // while it waited here
  auto prepared = PrepareRequest(request, stream->request_id(), resume, *context_.placer,
                                 context_.separate_tenants);
  if (!prepared.ok()) return stream->End(prepared.status());
  stream->Begin(*std::move(prepared));
}

grpc::ServerUnaryReactor* InferenceService::Cancel(grpc::CallbackServerContext* context,
                                                   const v1::CancelRequest* request,
                                                   v1::CancelResponse* response) {
  if (request->request_id().empty()) {
    return FinishNow(context,
                     WithField(absl::InvalidArgumentError("request_id is empty"), "request_id"));
  }
  const std::shared_ptr<RequestStream> stream =
      context_.streams->FindLive(request->request_id(), request->tenant());
  response->set_found(stream != nullptr);
  if (stream != nullptr) stream->Cancel();
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::OnPool(const google::protobuf::Message& request,
                                                   std::function<absl::Status()> work) {
  auto* call = new PooledCall;
  const WorkPool::Terms terms{kTextCalls, request.SpaceUsedLong(), kTextCallsShareOfPool};
  const bool posted = context_.work_pool->Post(
      [call, work = std::move(work)] { call->Finish(ToGrpc(work())); }, terms);
  if (!posted) call->Finish(ToGrpc(PoolIsFull(context_.work_pool, "tokenized")));
  return call;
}

absl::StatusOr<InferenceService::NamedTokenizer> InferenceService::TokenizerOf(
    const std::string& name) const {
  if (absl::Status s = ValidateName(name, "model"); !s.ok()) return s;
  const std::vector<WorkerView> views = context_.registry->Views();
  const auto found = FindModel(views, name);
  if (!found.ok()) return found.status();
  for (const WorkerView& view : views) {
    if (view.model == nullptr || view.info.model() != *found) continue;
    if (view.model->tokenizer() == nullptr) {
      return WithField(
          absl::FailedPreconditionError(absl::StrCat("the model ", *found, " has no tokenizer")),
          "model");
    }
    return NamedTokenizer{view.model->tokenizer(), view.info.vocabulary_size()};
  }
  return NoWorkerNow(*found);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext*,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return OnPool(*request, [this, request, response]() -> absl::Status {
    const auto target = TokenizerOf(request->model());
    if (!target.ok()) return target.status();
    if (request->text().size() > kMaxPromptBytes) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat("text is ", request->text().size(),
                                                  " bytes; allowed: at most ", kMaxPromptBytes)),
          "text");
    }
    auto ids = target->tokenizer->Encode(
        request->text(), !request->has_add_special_tokens() || request->add_special_tokens());
    if (!ids.ok()) return WithField(ids.status(), "text");
    size_t num_bytes = 0;
    for (const uint32_t id : *ids) {
      std::string token = target->tokenizer->IdToToken(id).value_or("");
      num_bytes += kMostBytesBesideToken + token.size();
      if (num_bytes > kMaxPublicMessageBytes) {
        return AnswerTooLarge("text", absl::StrCat(request->text().size(), " bytes"),
                              absl::StrCat(ids->size(), " tokens with their spelling"));
      }
      response->add_token_ids(id);
      response->add_tokens(std::move(token));
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext*,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return OnPool(*request, [this, request, response]() -> absl::Status {
    const auto target = TokenizerOf(request->model());
    if (!target.ok()) return target.status();
    if (absl::Status s =
            ValidateTokenIds("token_ids", request->token_ids(), target->vocabulary_size);
        !s.ok()) {
      return s;
    }
    const std::vector<uint32_t> ids(request->token_ids().begin(), request->token_ids().end());
    auto text = target->tokenizer->Decode(
        ids, !request->has_skip_special_tokens() || request->skip_special_tokens(),
        kMaxPublicMessageBytes - kMostBytesBesideToken);
    if (absl::IsResourceExhausted(text.status())) {
      return AnswerTooLarge("token_ids", absl::StrCat(ids.size(), " ids"), "their text");
    }
    if (!text.ok()) return WithField(text.status(), "token_ids");
    response->set_text(*std::move(text));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  for (v1::Model& model : ListServedModels(context_.registry->Views())) {
    *response->add_models() = std::move(model);
  }
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest* request,
                                                     v1::Model* response) {
  if (absl::Status s = ValidateName(request->model(), "model"); !s.ok()) {
    return FinishNow(context, s);
  }
  const std::vector<WorkerView> views = context_.registry->Views();
  const auto found = FindModel(views, request->model());
  if (!found.ok()) return FinishNow(context, found.status());
  for (const v1::Model& model : ListServedModels(views)) {
    if (model.id() != *found) continue;
    *response = model;
    return FinishNow(context, absl::OkStatus());
  }
  return FinishNow(context, NoWorkerNow(*found));
}

grpc::ServerUnaryReactor* InferenceService::GetLoad(grpc::CallbackServerContext* context,
                                                    const v1::GetLoadRequest*,
                                                    v1::GetLoadResponse* response) {
  for (const WorkerView& view : context_.registry->Views()) {
    *response->add_workers() = ToWorkerLoad(view);
  }
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  response->set_version(kVersion);
  response->set_build(absl::StrCat("g++ ", __VERSION__,
                                   ", "
#ifdef NDEBUG
                                   "release"
#else
                                   "debug"
#endif
                                   ));
  response->set_uptime_s((SteadyMicros() - started_at_) / 1e6);
  for (const char* feature : {"chat", "logprobs", "stop-strings", "resume", "prefix-affinity"}) {
    response->add_features(feature);
  }
  return FinishNow(context, absl::OkStatus());
}

}  // namespace quire
