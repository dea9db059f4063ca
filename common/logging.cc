#include "common/logging.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/line_writer.h"

namespace quire {
namespace {

constexpr size_t kMaxWaitingLines = 8192;
// Far longer than a machine under load keeps the writer's thread waiting: last words say why a
// process ended.
constexpr int64_t kExitFlushMicros = 5'000'000;

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

// Never destroyed: its thread may be stuck in a write for ever, and exit must not be.
LineWriter& StandardError() {
  static LineWriter* const writer = new LineWriter(STDERR_FILENO, kMaxWaitingLines);
  return *writer;
}

class StandardErrorSink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    StandardError().Post(std::string(line.data(), line.size()));
  }
  void flush_() override {}
};

}  // namespace

void SetUpLogging(std::string_view program, LogLevel level) {
  auto logger =
      std::make_shared<spdlog::logger>(std::string(program), std::make_shared<StandardErrorSink>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %n %v");
  logger->set_level(ToSpdlog(level));
  spdlog::set_default_logger(std::move(logger));
  static const int registered = std::atexit([] { FlushLog(kExitFlushMicros); });
  static_cast<void>(registered);
}

void Log(LogLevel level, std::string_view message) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; };
  if (message.size() <= kMaxLogBytes && std::none_of(message.begin(), message.end(), is_control)) {
    return spdlog::log(ToSpdlog(level), "{}", message);
  }
  std::string line;
  for (const char c : message.substr(0, kMaxLogBytes)) {
    if (!is_control(c)) {
      line += c;
    } else {
      absl::StrAppend(&line, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  if (message.size() > kMaxLogBytes) {
    absl::StrAppend(&line, "... (", message.size(), " bytes)");
  }
  spdlog::log(ToSpdlog(level), "{}", line);
}

void FlushLog(int64_t micros) { StandardError().Flush(SteadyMicros() + micros); }

}  // namespace quire
