#ifndef QUIRE_TESTS_FUZZ_JSON_MUTATOR_H_
#define QUIRE_TESTS_FUZZ_JSON_MUTATOR_H_

#include <cstdint>
#include <random>
#include <string>

// Changes of JSON text that keep it JSON, for libFuzzer's custom mutators.
namespace quire {

using FuzzRandom = std::minstd_rand;

// `text` with libFuzzer's own changes, at most `max_bytes` long.
std::string MutateBytes(const std::string& text, size_t max_bytes);

// If `text` is JSON: one value, anywhere in it, replaced, removed, repeated or moved. Else, and at
// times anyway, as MutateBytes.
std::string MutateJson(const std::string& text, FuzzRandom& random, size_t max_bytes);

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_JSON_MUTATOR_H_
