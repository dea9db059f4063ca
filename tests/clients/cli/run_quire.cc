#include "tests/clients/cli/run_quire.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

extern char** environ;

namespace quire {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

}  // namespace

QuireProcess::QuireProcess(const std::vector<std::string>& arguments, const std::string& input) {
  std::string pattern = (std::filesystem::temp_directory_path() / "quire-cli-XXXXXX").string();
  folder_ = mkdtemp(pattern.data());
  std::ofstream(folder_ + "/in", std::ios::binary) << input;

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, (folder_ + "/in").c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, (folder_ + "/out").c_str(), O_WRONLY | O_CREAT,
                                   0600);
  posix_spawn_file_actions_addopen(&actions, 2, (folder_ + "/err").c_str(), O_WRONLY | O_CREAT,
                                   0600);
  std::vector<char*> argv = {const_cast<char*>(QUIRE_BINARY)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  if (posix_spawn(&pid_, QUIRE_BINARY, &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
  posix_spawn_file_actions_destroy(&actions);
}

QuireProcess::~QuireProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::filesystem::remove_all(folder_);
}

void QuireProcess::Signal(int number) { kill(pid_, number); }

QuireResult QuireProcess::Wait() {
  QuireResult result;
  int status = 0;
  if (pid_ > 0 && waitpid(pid_, &status, 0) == pid_) {
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  pid_ = -1;
  result.out = Read(folder_ + "/out");
  result.err = Read(folder_ + "/err");
  return result;
}

QuireResult RunQuire(const std::vector<std::string>& arguments, const std::string& input) {
  return QuireProcess(arguments, input).Wait();
}

}  // namespace quire
