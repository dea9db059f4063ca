#ifndef QUIRE_TEXT_RUST_HANDLE_H_
#define QUIRE_TEXT_RUST_HANDLE_H_

#include <memory>

// Objects of the Rust library behind this folder (text/rust/src/ffi.rs); opaque here.
struct QuireTextTokenizer;
struct QuireTextStream;
struct QuireTextTemplate;

namespace quire {

struct RustDeleter {
  void operator()(QuireTextTokenizer* object) const;
  void operator()(QuireTextStream* object) const;
  void operator()(QuireTextTemplate* object) const;
};

// Owns such an object.
template <typename T>
using RustHandle = std::unique_ptr<T, RustDeleter>;

}  // namespace quire

#endif  // QUIRE_TEXT_RUST_HANDLE_H_
