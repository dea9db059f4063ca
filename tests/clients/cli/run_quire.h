#ifndef QUIRE_TESTS_CLIENTS_CLI_RUN_QUIRE_H_
#define QUIRE_TESTS_CLIENTS_CLI_RUN_QUIRE_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace quire {

// What a run of the real binary left behind.
struct QuireResult {
  int exit_code = -1;  // 128 + the signal's number if one ended it
  std::string out;
  std::string err;
};

// A run of build/PRESET/bin/quire. Its output goes to files, so that it never waits for a reader.
class QuireProcess {
 public:
  explicit QuireProcess(const std::vector<std::string>& arguments, const std::string& input = "");
  ~QuireProcess();
  QuireProcess(const QuireProcess&) = delete;
  QuireProcess& operator=(const QuireProcess&) = delete;

  void Signal(int number);
  // Waits for its end. REQUIRES: called once.
  QuireResult Wait();

 private:
  std::string folder_;
  pid_t pid_ = -1;
};

QuireResult RunQuire(const std::vector<std::string>& arguments, const std::string& input = "");

}  // namespace quire

#endif  // QUIRE_TESTS_CLIENTS_CLI_RUN_QUIRE_H_
