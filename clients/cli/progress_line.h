#ifndef QUIRE_CLIENTS_CLI_PROGRESS_LINE_H_
#define QUIRE_CLIENTS_CLI_PROGRESS_LINE_H_

#include <string>

namespace quire {

// Progress on standard error: on a terminal one line that is drawn again, elsewhere (a log) only
// lines that stay. Not thread safe.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { Clear(); }

  // What is going on now.
  void Draw(const std::string& text);
  // A line that stays.
  void Keep(const std::string& text);

 private:
  void Clear();

  const bool is_terminal_;
  bool is_drawn_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_PROGRESS_LINE_H_
