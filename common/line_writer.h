#ifndef QUIRE_COMMON_LINE_WRITER_H_
#define QUIRE_COMMON_LINE_WRITER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <thread>

#include "common/mutex.h"

namespace quire {

// Writes lines to a file descriptor on a thread of its own, so that no one who posts a line waits
// for its reader: a pipe may stall. At most `max_lines` wait; what comes beyond is dropped, and a
// line in its place says how many were.
//
// Thread safe. In a process made by fork(), which has no such thread, lines are written at once.
class LineWriter {
 public:
  // `fd` stays the caller's, and outlives this.
  LineWriter(int fd, size_t max_lines);
  // Writes what waits first, for as long as that takes.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // Takes a line with its newline.
  void Post(std::string line);
  // Waits until nothing is left to write, or until `deadline` (steady clock, microseconds). False:
  // the deadline passed.
  bool Flush(int64_t deadline);

 private:
  struct Entry {
    std::string line;
    uint64_t dropped = 0;  // not 0: lines that this entry stands for, instead of `line`
  };

  void Run();
  void Write(const std::string& text) const;

  const int fd_;
  const size_t max_lines_;
  const pid_t process_;
  Mutex mutex_;
  CondVar posted_;
  CondVar written_;
  std::deque<Entry> queue_ QUIRE_GUARDED_BY(mutex_);  // at most max_lines, and one that counts
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_LINE_WRITER_H_
