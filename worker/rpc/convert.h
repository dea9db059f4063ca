#ifndef QUIRE_WORKER_RPC_CONVERT_H_
#define QUIRE_WORKER_RPC_CONVERT_H_

#include <quire/worker/v1/worker.pb.h>
#include "absl/status/statusor.h"
#include "worker/engine/engine.h"

// Between worker.proto and the engine's types.
namespace quire {

// The worker trusts no coordinator: numbers that are not finite, arrays that do not match and
// values out of range are INVALID_ARGUMENT, naming the field. Token ids and lengths are the
// engine's to check.
absl::StatusOr<EngineRequest> ToEngineRequest(const worker::v1::Submit& submit, uint32_t session,
                                              Micros now);

worker::v1::Finish ToProto(const ChoiceFinish& finish);
quire::v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs);

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_CONVERT_H_
