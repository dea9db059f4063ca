#include "common/line_writer.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"

namespace quire {

LineWriter::LineWriter(int fd, size_t max_lines)
    : fd_(fd), max_lines_(max_lines), process_(getpid()), thread_([this] { Run(); }) {}

LineWriter::~LineWriter() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  posted_.NotifyOne();
  thread_.join();
}

void LineWriter::Post(std::string line) {
  if (getpid() != process_) return Write(line);
  {
    MutexLock lock(mutex_);
    if (queue_.size() < max_lines_) {
      queue_.push_back({std::move(line)});
    } else {
      if (queue_.back().dropped == 0) queue_.emplace_back();
      ++queue_.back().dropped;
    }
  }
  posted_.NotifyOne();
}

bool LineWriter::Flush(int64_t deadline) {
  if (getpid() != process_) return true;
  MutexLock lock(mutex_);
  while (writing_ || !queue_.empty()) {
    if (!written_.WaitUntil(mutex_, FromSteadyMicros(deadline))) return false;
  }
  return true;
}

void LineWriter::Run() {
  for (;;) {
    Entry next;
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (queue_.empty()) written_.NotifyAll();
      while (queue_.empty() && !stopping_) posted_.Wait(mutex_);
      if (queue_.empty()) return;
      next = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
    }
    Write(next.dropped == 0 ? next.line : absl::StrCat(next.dropped, " lines were dropped here\n"));
  }
}

void LineWriter::Write(const std::string& text) const {
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written >= 0) {
      rest.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {  // whoever shares the descriptor made it non-blocking
      pollfd writable{fd_, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

}  // namespace quire
