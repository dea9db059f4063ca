//! What `text/` takes from Rust: Hugging Face's tokenizers, decoding that streams, and Jinja.
//!
//! C++ sees `quire_text.h` alone; `ffi.rs` is the border. Nothing here reads a file, a clock or the
//! environment.

mod chat_template;
mod decoding;
mod error;
mod ffi;
mod files;
mod python;
mod special_tokens;
mod stream;
mod strftime;
mod tokenizer;
