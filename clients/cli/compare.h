#ifndef QUIRE_CLIENTS_CLI_COMPARE_H_
#define QUIRE_CLIENTS_CLI_COMPARE_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace quire {

// compare.json: the same requests, sent to each kind of worker in turn.
//
//   machine   {cpu, cores, memory_bytes, load_average} of the client's machine, at the start
//   versions  {quire, quire_client}: of the coordinator and of this program. Others add their own.
//   model     its name
//   workload  {prompt, prompt_tokens, temperature, ignore_eos}
//   rows      one for each dtype, engine, new_tokens and concurrency, in the order of measuring:
//     dtype, engine         "fp32", "bf16"; "paged", "baseline-dynamic", "baseline-static", "hf"
//     worker                its GetLoad name
//     new_tokens            tokens that each request asked for
//     concurrency           requests that ran at once, as the client counts
//     requests              how many were measured
//     duration_s            from the first request's start to the last one's end
//     latency_s             {p50, p99}: from a request's start to its last token
//     ttft_ms, tpot_ms      medians: to the first token, and a token after it
//     output_tokens_per_s   all tokens of the row over duration_s
//     kv_reserved_bytes,    KV memory held at the end of a request and how much of it held keys and
//     kv_used_bytes         values (the mean of the row's requests), times the requests that the
//                           engine holds at once: `concurrency` for paged, 1 for the others
//     max_unused_tokens     the most room, in tokens, that one request held unused at any step
//     tokens_equal          whether every output equals the hf fp32 one of the same new_tokens, or
//                           first differs at a tie; null in other dtypes and without hf fp32
//     tie                   whether the first difference is a tie (token_equality.h)
//     first_difference      the first index that differs, or null
struct CompareRow {
  std::string dtype;
  std::string engine;
  std::string worker;
  uint32_t new_tokens = 0;
  uint32_t concurrency = 0;
  size_t requests = 0;
  double duration_s = 0;
  double latency_p50_s = 0;
  double latency_p99_s = 0;
  double ttft_ms = 0;
  double tpot_ms = 0;
  double output_tokens_per_s = 0;
  uint64_t kv_reserved_bytes = 0;
  uint64_t kv_used_bytes = 0;
  uint32_t max_unused_tokens = 0;
  std::optional<bool> tokens_equal;
  bool tie = false;
  std::optional<size_t> first_difference;
};

struct CompareResult {
  nlohmann::ordered_json machine;
  nlohmann::ordered_json versions;
  std::string model;
  nlohmann::ordered_json workload;
  std::vector<CompareRow> rows;
};

nlohmann::ordered_json CompareToJson(const CompareResult& result);

// A row in one line, and all of them as a table, for people.
std::string CompareLine(const CompareRow& row);
std::string CompareTable(const CompareResult& result);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_COMPARE_H_
