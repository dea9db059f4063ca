#ifndef QUIRE_TEXT_RUST_QUIRE_TEXT_H_
#define QUIRE_TEXT_RUST_QUIRE_TEXT_H_

// The C interface of the crate in this folder (src/ffi.rs), for text/ alone.
//
// Arguments are borrowed for the call. No call lets a Rust panic out. Objects may be used from
// several threads at once, except QuireTextStream.
#include <stddef.h>
#include <stdint.h>

extern "C" {

struct QuireTextTokenizer;
struct QuireTextStream;
struct QuireTextTemplate;

// What a call returns.
enum QuireTextCode : int32_t {
  kQuireTextOk = 0,
  kQuireTextInvalidArgument = 1,
  kQuireTextNotFound = 2,
  kQuireTextResourceExhausted = 3,
  kQuireTextInternal = 4,
};

struct QuireTextBytes {
  const uint8_t* data;
  size_t size;
};

struct QuireTextFile {
  QuireTextBytes name;
  QuireTextBytes content;
};

// Takes what a call gives: its text, or its error message if the call fails. Called at most once.
struct QuireTextSink {
  void* context;
  void (*put)(void* context, const uint8_t* data, size_t size);
};

// `result` is written on success, and then given back by the function that frees it.
QuireTextCode quire_text_tokenizer_load(const QuireTextFile* files, size_t num_files,
                                        QuireTextTokenizer** result, QuireTextSink sink);
void quire_text_tokenizer_free(QuireTextTokenizer* tokenizer);
uint32_t quire_text_tokenizer_vocabulary_size(const QuireTextTokenizer* tokenizer);
// The sink gets ids: uint32_t in the machine's byte order.
QuireTextCode quire_text_tokenizer_encode(const QuireTextTokenizer* tokenizer, QuireTextBytes text,
                                          bool add_special_tokens, QuireTextSink sink);
// kQuireTextResourceExhausted as soon as the text is longer than `max_bytes`.
QuireTextCode quire_text_tokenizer_decode(const QuireTextTokenizer* tokenizer, const uint32_t* ids,
                                          size_t num_ids, bool skip_special_tokens,
                                          size_t max_bytes, QuireTextSink sink);
// kQuireTextNotFound where there is none.
QuireTextCode quire_text_tokenizer_id_to_token(const QuireTextTokenizer* tokenizer, uint32_t id,
                                               QuireTextSink sink);
QuireTextCode quire_text_tokenizer_token_to_id(const QuireTextTokenizer* tokenizer,
                                               QuireTextBytes token, uint32_t* id,
                                               QuireTextSink sink);

// Keeps what it needs of the tokenizer alive.
QuireTextCode quire_text_stream_new(const QuireTextTokenizer* tokenizer, const uint32_t* prompt_ids,
                                    size_t num_prompt_ids, QuireTextStream** result,
                                    QuireTextSink sink);
void quire_text_stream_free(QuireTextStream* stream);
// Another stream at the same place.
QuireTextCode quire_text_stream_clone(const QuireTextStream* stream, QuireTextStream** result,
                                      QuireTextSink sink);
// The sink gets the text that became certain by this id.
QuireTextCode quire_text_stream_push(QuireTextStream* stream, uint32_t id, QuireTextSink sink);
// The sink gets the text that waited. Nothing may be pushed afterwards.
QuireTextCode quire_text_stream_finish(QuireTextStream* stream, QuireTextSink sink);

QuireTextCode quire_text_template_load(const QuireTextFile* files, size_t num_files,
                                       uint64_t max_steps, uint64_t max_output_bytes,
                                       QuireTextTemplate** result, QuireTextSink sink);
void quire_text_template_free(QuireTextTemplate* chat_template);
// `now_unix_seconds` may be null.
QuireTextCode quire_text_template_render(const QuireTextTemplate* chat_template,
                                         QuireTextBytes messages, QuireTextBytes tools,
                                         QuireTextBytes variables, bool add_generation_prompt,
                                         const int64_t* now_unix_seconds, QuireTextSink sink);

}  // extern "C"

#endif  // QUIRE_TEXT_RUST_QUIRE_TEXT_H_
