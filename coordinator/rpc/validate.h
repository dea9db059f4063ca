#ifndef QUIRE_COORDINATOR_RPC_VALIDATE_H_
#define QUIRE_COORDINATOR_RPC_VALIDATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <quire/v1/inference.pb.h>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "coordinator/model/served_model.h"
#include "coordinator/stream/resume_tokens.h"

// The one place where a client's request is checked. Every error names the field, its value and
// what is allowed (common/request_fields.h).
namespace quire {

// What can be said without knowing the model.
absl::Status ValidateRequest(const v1::GenerateRequest& request);

// A model's limits.
struct ModelLimits {
  uint32_t context_length = 0;
  uint32_t vocabulary_size = 0;
};

// The prompt as token ids: checked, encoded or rendered. Takes as long as a tokenizer takes.
// FAILED_PRECONDITION where the model has no tokenizer or no chat template for it.
absl::StatusOr<std::vector<uint32_t>> MakePrompt(const v1::GenerateRequest& request,
                                                 const ServedModel& model,
                                                 const ModelLimits& limits);

// What every parameter becomes. `request_id` gives the seed where none is set.
absl::StatusOr<v1::ResolvedParameters> ResolveParameters(const v1::GenerateRequest& request,
                                                         const std::string& request_id,
                                                         uint32_t prompt_tokens,
                                                         const ServedModel& model,
                                                         const ModelLimits& limits);

// What only the model and the resolved parameters tell of a request that resumes.
absl::Status ValidateResume(const ResumeTokens& resume, const v1::ResolvedParameters& parameters,
                            const ModelLimits& limits);

// The emitted tokens of a request that resumes, an entry a choice, which hold `charge`.
ResumeTokens ResumeOf(const v1::GenerateRequest& request, std::shared_ptr<void> charge = nullptr);

// Names the request's body: everything but its request_id, its resume state and its time limits.
// Equal for equal bodies.
std::string Fingerprint(const v1::GenerateRequest& request);

// A seed of 32 bits from a request_id.
uint32_t SeedOf(const std::string& request_id);

// Printable ASCII of at most kMaxNameBytes bytes.
absl::Status ValidateName(const std::string& value, const char* field);

// Ids of the vocabulary. The error names the first that is none as path[index].
absl::Status ValidateTokenIds(absl::string_view path, absl::Span<const uint32_t> ids,
                              uint32_t vocabulary);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_VALIDATE_H_
