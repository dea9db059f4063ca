#ifndef QUIRE_BENCHMARKS_RELAY_BOARD_H_
#define QUIRE_BENCHMARKS_RELAY_BOARD_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#include "common/clock.h"
#include "common/mutex.h"

// What the mock workers and the client of the relay benchmark share, so that a token's way can be
// timed though its id is an ordinary one with a text: a page that both map. An id names the step
// that sent it; the page says when that was.
namespace quire {

struct RelayBoard {
  static constexpr uint32_t kSlots = 4096;
  static constexpr uint32_t kFirstId = 1000;  // quire-tiny's ids from here on have ordinary texts

  // Written by the client: how many steps a second each worker makes, a token a stream each.
  // 0: the workers rest.
  std::atomic<uint32_t> steps_per_s;
  std::atomic<uint32_t> tokens_per_step;  // of one stream, in one entry
  // Written by the workers.
  std::atomic<uint64_t> num_steps;
  std::atomic<uint64_t> num_skipped;     // steps not made since the session's reader lagged behind
  std::atomic<int64_t> num_streams;      // that run; those of a killed worker stay
  std::atomic<int64_t> sent_at[kSlots];  // steady, microseconds

  // Makes the next step's slot and gives its id.
  uint32_t Stamp() {
    const uint64_t step = num_steps.fetch_add(1);
    sent_at[step % kSlots].store(SteadyMicros());
    return kFirstId + static_cast<uint32_t>(step % kSlots);
  }
  int64_t SentAt(uint32_t id) const { return sent_at[(id - kFirstId) % kSlots].load(); }

  // It begins as zeros. Where the file cannot be mapped `program` says so, and exits with 2.
  static RelayBoard* MapOrExit(const char* program, const std::string& path) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    void* page = MAP_FAILED;
    if (file >= 0 && ftruncate(file, sizeof(RelayBoard)) == 0) {
      page = mmap(nullptr, sizeof(RelayBoard), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    if (file >= 0) close(file);
    if (page == MAP_FAILED) {
      std::cerr << program << ": cannot map " << path << "\n";
      std::exit(2);
    }
    return static_cast<RelayBoard*>(page);
  }
};
static_assert(std::atomic<int64_t>::is_always_lock_free);

// Waits until a time of the steady clock without spinning.
inline void WaitUntil(int64_t micros) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  while (SteadyMicros() < micros) never.WaitUntil(mutex, FromSteadyMicros(micros));
}

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_RELAY_BOARD_H_
