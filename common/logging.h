#ifndef QUIRE_COMMON_LOGGING_H_
#define QUIRE_COMMON_LOGGING_H_

#include <cstddef>
#include <string_view>

// One line a call to standard error, with time and level. Thread safe. spdlog does the work, behind
// this face, so that its fmt never meets libtorch's in one file.
namespace quire {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are dropped. `program` starts each line. From now on a call never waits for
// who reads standard error: a bounded number of lines wait to be written (LineWriter), and exit
// waits until they are, five seconds at most.
void SetUpLogging(std::string_view program, LogLevel level);
// Control characters are written as \xNN, so that what others sent cannot look like a line of ours,
// and of a longer message its first kMaxLogBytes.
inline constexpr size_t kMaxLogBytes = 16 << 10;
void Log(LogLevel level, std::string_view message);
// Waits until what was logged is written, `micros` at most. For use before _Exit.
void FlushLog(int64_t micros);

inline void LogInfo(std::string_view message) { Log(LogLevel::kInfo, message); }
inline void LogWarning(std::string_view message) { Log(LogLevel::kWarning, message); }
inline void LogError(std::string_view message) { Log(LogLevel::kError, message); }

}  // namespace quire

#endif  // QUIRE_COMMON_LOGGING_H_
