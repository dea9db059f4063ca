#ifndef QUIRE_COORDINATOR_RPC_PREPARE_H_
#define QUIRE_COORDINATOR_RPC_PREPARE_H_

#include <string>

#include <quire/v1/inference.pb.h>
#include "absl/status/statusor.h"
#include "coordinator/registry/placer.h"
#include "coordinator/stream/request_stream.h"

namespace quire {

// A client's request with its model, its prompt in tokens and every parameter resolved; or what is
// wrong with it, naming the field. Takes as long as a tokenizer takes. `resume`: the request's,
// which may have left the message. `separate_tenants`: it shares cached prefixes only with requests
// of its tenant. REQUIRES: ValidateRequest passed it.
absl::StatusOr<PreparedRequest> PrepareRequest(const v1::GenerateRequest& request,
                                               const std::string& request_id, ResumeTokens resume,
                                               const Placer& placer, bool separate_tenants);

// Whether its client has been told Accepted, here or by another coordinator: it has tokens, or had
// a place in a worker's queue, and waits for room rather than be refused for want of it.
bool WasAccepted(const v1::GenerateRequest& request);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_RPC_PREPARE_H_
