#ifndef QUIRE_CLIENTS_CLI_MACHINE_INFO_H_
#define QUIRE_CLIENTS_CLI_MACHINE_INFO_H_

#include <nlohmann/json.hpp>

namespace quire {

// The machine that a measurement ran on: {cpu, cores, memory_bytes, load_average: [1, 5, 15
// minutes]}. What the system does not tell is left empty or 0.
nlohmann::ordered_json MachineInfo();

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_MACHINE_INFO_H_
