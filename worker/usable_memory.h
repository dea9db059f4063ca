#ifndef QUIRE_WORKER_USABLE_MEMORY_H_
#define QUIRE_WORKER_USABLE_MEMORY_H_

#include <cstdint>
#include <string>

namespace quire {

// The memory that this process may use, in bytes: the machine's, or less where a control group that
// the process is in (version 2, as containers and systemd's MemoryMax make them) or one above it
// says less. Files are read below `root`, which tests set; those that are missing or make no sense
// set no limit.
uint64_t UsableMemoryBytes(const std::string& root = "");

}  // namespace quire

#endif  // QUIRE_WORKER_USABLE_MEMORY_H_
