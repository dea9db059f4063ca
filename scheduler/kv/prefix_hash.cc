#include "scheduler/kv/prefix_hash.h"

#include <bit>
#include <cstring>

namespace quire {
namespace {

// The state of SipHash, fed with 64-bit little-endian words.
class Sip {
 public:
  explicit Sip(const PrefixHashKey& key)
      : v0_(0x736f6d6570736575u ^ key[0]),
        v1_(0x646f72616e646f6du ^ key[1] ^ 0xee),
        v2_(0x6c7967656e657261u ^ key[0]),
        v3_(0x7465646279746573u ^ key[1]) {}

  void Word(uint64_t word) {
    v3_ ^= word;
    Rounds(2);
    v0_ ^= word;
  }

  PrefixHash Finish() {
    PrefixHash hash;
    v2_ ^= 0xee;
    Rounds(4);
    hash.low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    Rounds(4);
    hash.high = v0_ ^ v1_ ^ v2_ ^ v3_;
    return hash;
  }

 private:
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) {
      v0_ += v1_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v3_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ += v3_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ += v1_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  uint64_t v0_, v1_, v2_, v3_;
};

}  // namespace

PrefixHash SipHash128(const PrefixHashKey& key, const void* data, size_t num_bytes) {
  static_assert(std::endian::native == std::endian::little);
  const auto* bytes = static_cast<const unsigned char*>(data);
  Sip sip(key);
  size_t i = 0;
  for (; i + 8 <= num_bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, 8);
    sip.Word(word);
  }
  uint64_t last = static_cast<uint64_t>(num_bytes) << 56;
  for (size_t j = 0; i + j < num_bytes; ++j) last |= uint64_t{bytes[i + j]} << (8 * j);
  sip.Word(last);
  return sip.Finish();
}

PrefixHash HashSalt(const PrefixHashKey& key, std::string_view salt) {
  return SipHash128(key, salt.data(), salt.size());
}

PrefixHash HashBlock(const PrefixHashKey& key, const PrefixHash& parent,
                     std::span<const TokenId> tokens) {
  Sip sip(key);
  sip.Word(parent.low);
  sip.Word(parent.high);
  for (size_t i = 0; i + 2 <= tokens.size(); i += 2) {
    sip.Word(tokens[i] | uint64_t{tokens[i + 1]} << 32);
  }
  // Parent hashes are secret, so no client can choose a salt that reads like a block; the mark
  // keeps an odd number of tokens apart from an even one.
  const bool odd = tokens.size() % 2 != 0;
  sip.Word(odd ? tokens.back() | uint64_t{1} << 32 : 0);
  return sip.Finish();
}

}  // namespace quire
