#ifndef QUIRE_TESTS_SIMULATION_WORKLOAD_H_
#define QUIRE_TESTS_SIMULATION_WORKLOAD_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/model/model_catalog.h"
#include "coordinator/model/served_model.h"
#include "tests/simulation/event_queue.h"

namespace quire {

// What a choice gives, whatever happens to it on the way.
struct ExpectedChoice {
  std::vector<uint32_t> tokens;
  std::string text;
  v1::Finished::Reason reason = v1::Finished::LENGTH;
  std::string stop_string;  // empty: none ended it
};

struct SimRequest {
  v1::GenerateRequest request;
  uint64_t seed = 0;  // as Finished should say
  std::vector<ExpectedChoice> expected;
};

// The model's files, and the catalog that all coordinators of all simulations share, since a
// tokenizer takes as long to load as a simulation takes.
const ModelFiles& SimModelFiles();
ModelCatalog* SimCatalog();

// A random request with its answer: what one device computes that has nothing else to do. A poison
// is one that ends the workers that run it (SimWorker::kPoisonToken).
SimRequest MakeSimRequest(const std::string& request_id, bool is_poison, SimRandom* random);

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_WORKLOAD_H_
