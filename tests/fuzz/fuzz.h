#ifndef QUIRE_TESTS_FUZZ_FUZZ_H_
#define QUIRE_TESTS_FUZZ_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

// A fuzz target is a function of one input that ends the process when an invariant does not hold.
// It is built twice: by clang as a program of libFuzzer (preset fuzz), and by any compiler into
// fuzz_corpus_test, which gives it the files of corpus/NAME.
//
//   QUIRE_FUZZ_TARGET(safetensors, input) { ... }   // input: std::string_view
#ifdef QUIRE_LIBFUZZER
#define QUIRE_FUZZ_TARGET(name, input)                                      \
  static void FuzzOne(std::string_view input);                              \
  extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
    FuzzOne(std::string_view(reinterpret_cast<const char*>(data), size));   \
    return 0;                                                               \
  }                                                                         \
  static void FuzzOne(std::string_view input)
#else
#define QUIRE_FUZZ_TARGET(name, input)                                           \
  static void FuzzOne(std::string_view input);                                   \
  static const bool is_registered = ::quire::RegisterFuzzTarget(#name, FuzzOne); \
  static void FuzzOne(std::string_view input)
#endif

// Ends the process, saying what does not hold and why.
#define QUIRE_FUZZ_CHECK(condition, why)                                         \
  do {                                                                           \
    if (!(condition)) ::quire::FuzzFailure(__FILE__, __LINE__, #condition, why); \
  } while (false)

namespace quire {

[[noreturn]] inline void FuzzFailure(const char* file, int line, const char* condition,
                                     const std::string& why) {
  std::fprintf(stderr, "%s:%d: does not hold: %s: %s\n", file, line, condition, why.c_str());
  std::abort();
}

struct FuzzTarget {
  std::string name;  // of its folder in corpus/
  void (*run)(std::string_view input);
};
std::vector<FuzzTarget>& FuzzTargets();
bool RegisterFuzzTarget(const char* name, void (*run)(std::string_view));

// No text that a client or a log is given may be anything but UTF-8.
bool IsUtf8(std::string_view text);

inline std::string MessageOf(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

// A refusal says what it refuses: the message holds one of `names`, and is UTF-8.
inline void CheckRefusal(const absl::Status& status, const std::vector<std::string_view>& names) {
  QUIRE_FUZZ_CHECK(!status.ok() && status.code() != absl::StatusCode::kInternal &&
                       status.code() != absl::StatusCode::kUnknown,
                   status.ToString());
  const std::string message = MessageOf(status);
  QUIRE_FUZZ_CHECK(IsUtf8(message), message);
  for (const std::string_view name : names) {
    if (message.find(name) != std::string::npos) return;
  }
  FuzzFailure(__FILE__, __LINE__, "the message names its place", status.ToString());
}

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_FUZZ_H_
