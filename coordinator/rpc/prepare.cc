#include "coordinator/rpc/prepare.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/validate.h"

namespace quire {

absl::StatusOr<PreparedRequest> PrepareRequest(const v1::GenerateRequest& request,
                                               const std::string& request_id, ResumeTokens resume,
                                               const Placer& placer, bool separate_tenants) {
  const auto target = placer.Resolve(request.model(), request.engine(), request.worker());
  if (!target.ok()) return target.status();
  // One that was accepted before goes on where there is room enough for it: Place looks for that.
  const ModelLimits limits{
      WasAccepted(request) ? target->most_context_length : target->context_length,
      target->vocabulary_size};
  auto prompt = MakePrompt(request, *target->model, limits);
  if (!prompt.ok()) return prompt.status();
  auto parameters = ResolveParameters(request, request_id, static_cast<uint32_t>(prompt->size()),
                                      *target->model, limits);
  if (!parameters.ok()) return parameters.status();
  if (absl::Status s = ValidateResume(resume, *parameters, limits); !s.ok()) return s;
  PreparedRequest prepared;
  prepared.model = target->model;
  prepared.engine = target->engine;
  prepared.worker = request.worker();
  prepared.prompt = *std::move(prompt);
  prepared.parameters = *std::move(parameters);
  // Names are printable (validate.cc): with the line feed no two pairs of them read the same.
  prepared.cache_salt = separate_tenants
                            ? absl::StrCat(request.tenant(), "\n", request.cache_salt())
                            : request.cache_salt();
  prepared.tenant = request.tenant();
  prepared.emitted = std::move(resume);
  prepared.numerics_id = request.resume().numerics_id();
  return prepared;
}

bool WasAccepted(const v1::GenerateRequest& request) {
  return !request.resume().numerics_id().empty();
}

}  // namespace quire
