#include "clients/cli/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>

namespace quire {
namespace {

constexpr char kEraseLine[] = "\r\033[K";

size_t TerminalWidth() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressLine::ProgressLine() : is_terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressLine::Draw(const std::string& text) {
  if (!is_terminal_) return;
  // A line that wraps could not be erased.
  std::cerr << kEraseLine << text.substr(0, TerminalWidth() - 1) << std::flush;
  is_drawn_ = true;
}

void ProgressLine::Keep(const std::string& text) {
  Clear();
  std::cerr << text << std::endl;
}

void ProgressLine::Clear() {
  if (is_drawn_) std::cerr << kEraseLine << std::flush;
  is_drawn_ = false;
}

}  // namespace quire
