// The vector types of simd_inl.h as plain loops: the definition that the other paths are tested
// against. Included by simd_inl.h alone, inside the namespace of the path.

struct Vec {
  float v[16];
};
struct IVec {
  uint32_t v[16];
};
struct Mask {
  uint32_t bits;
};

template <typename Out, typename Fn>
inline Out Lanes(Fn fn) {
  Out out;
  for (int i = 0; i < 16; ++i) out.v[i] = fn(i);
  return out;
}
template <typename Fn>
inline Mask MaskLanes(Fn fn) {
  Mask out{0};
  for (int i = 0; i < 16; ++i) out.bits |= static_cast<uint32_t>(fn(i)) << i;
  return out;
}

inline Mask FirstLanes(int n) { return {(1u << n) - 1}; }
inline uint32_t Bits(Mask m) { return m.bits; }
inline Mask And(Mask a, Mask b) { return {a.bits & b.bits}; }
inline Mask Or(Mask a, Mask b) { return {a.bits | b.bits}; }
inline bool Lane(Mask m, int i) { return (m.bits >> i) & 1; }

inline Vec Set1(float x) {
  return Lanes<Vec>([&](int) { return x; });
}
inline Vec LoadFirst(const float* p, int n) {
  return Lanes<Vec>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline Vec Load(const float* p) { return LoadFirst(p, 16); }
inline void StoreFirst(float* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline void Store(float* p, Vec a) { StoreFirst(p, a, 16); }

inline Vec Add(Vec a, Vec b) {
  return Lanes<Vec>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec Sub(Vec a, Vec b) {
  return Lanes<Vec>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec Mul(Vec a, Vec b) {
  return Lanes<Vec>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec Div(Vec a, Vec b) {
  return Lanes<Vec>([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec Sqrt(Vec a) {
  return Lanes<Vec>([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline Vec Fma(Vec a, Vec b, Vec c) {
  return Lanes<Vec>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
// The second operand where either is a NaN, as the x86 instruction has it.
inline Vec Max(Vec a, Vec b) {
  return Lanes<Vec>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Mask Greater(Vec a, Vec b) {
  return MaskLanes([&](int i) { return a.v[i] > b.v[i]; });
}
inline Mask GreaterEqual(Vec a, Vec b) {
  return MaskLanes([&](int i) { return a.v[i] >= b.v[i]; });
}
inline Mask Equal(Vec a, Vec b) {
  return MaskLanes([&](int i) { return a.v[i] == b.v[i]; });
}
inline Vec Select(Mask m, Vec yes, Vec no) {
  return Lanes<Vec>([&](int i) { return Lane(m, i) ? yes.v[i] : no.v[i]; });
}

inline IVec ISet1(uint32_t x) {
  return Lanes<IVec>([&](int) { return x; });
}
inline IVec ILoad(const uint32_t* p) {
  return Lanes<IVec>([&](int i) { return p[i]; });
}
inline void IStore(uint32_t* p, IVec a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline IVec IAdd(IVec a, IVec b) {
  return Lanes<IVec>([&](int i) { return a.v[i] + b.v[i]; });
}
inline IVec ISub(IVec a, IVec b) {
  return Lanes<IVec>([&](int i) { return a.v[i] - b.v[i]; });
}
inline IVec IAnd(IVec a, IVec b) {
  return Lanes<IVec>([&](int i) { return a.v[i] & b.v[i]; });
}
inline IVec IOr(IVec a, IVec b) {
  return Lanes<IVec>([&](int i) { return a.v[i] | b.v[i]; });
}
inline IVec IXor(IVec a, IVec b) {
  return Lanes<IVec>([&](int i) { return a.v[i] ^ b.v[i]; });
}
template <int kBits>
inline IVec ShiftLeft(IVec a) {
  return Lanes<IVec>([&](int i) { return a.v[i] << kBits; });
}
template <int kBits>
inline IVec ShiftRight(IVec a) {
  return Lanes<IVec>([&](int i) { return a.v[i] >> kBits; });
}
template <int kBits>
inline IVec ShiftRightSigned(IVec a) {
  return Lanes<IVec>(
      [&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> kBits); });
}
inline Mask IGreaterSigned(IVec a, IVec b) {
  return MaskLanes(
      [&](int i) { return static_cast<int32_t>(a.v[i]) > static_cast<int32_t>(b.v[i]); });
}
inline IVec ISelect(Mask m, IVec yes, IVec no) {
  return Lanes<IVec>([&](int i) { return Lane(m, i) ? yes.v[i] : no.v[i]; });
}
inline Vec ToFloatSigned(IVec a) {
  return Lanes<Vec>([&](int i) { return static_cast<float>(static_cast<int32_t>(a.v[i])); });
}
inline Vec AsFloat(IVec a) {
  Vec out;
  __builtin_memcpy(&out, &a, sizeof(out));
  return out;
}
inline IVec AsInt(Vec a) {
  IVec out;
  __builtin_memcpy(&out, &a, sizeof(out));
  return out;
}

// The 64-bit products of the lanes with `factor`, in halves.
inline void MulWide(IVec a, uint32_t factor, IVec* high, IVec* low) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = static_cast<uint64_t>(a.v[i]) * factor;
    high->v[i] = static_cast<uint32_t>(product >> 32);
    low->v[i] = static_cast<uint32_t>(product);
  }
}

// Within each group of four lanes, the 4 × 4 matrix whose rows are the vectors is transposed.
inline void Transpose4(IVec v[4]) {
  for (int group = 0; group < 16; group += 4) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < i; ++j) {
        const uint32_t other = v[i].v[group + j];
        v[i].v[group + j] = v[j].v[group + i];
        v[j].v[group + i] = other;
      }
    }
  }
}

inline Vec LoadFirst(const Bf16* p, int n) {
  IVec bits{};
  for (int i = 0; i < n; ++i) bits.v[i] = static_cast<uint32_t>(p[i].bits) << 16;
  return AsFloat(bits);
}
inline Vec Load(const Bf16* p) { return LoadFirst(p, 16); }
inline void StoreFirst(Bf16* p, Vec a, int n) {
  const IVec bits = Bf16Bits(AsInt(a));
  for (int i = 0; i < n; ++i) p[i].bits = static_cast<uint16_t>(bits.v[i]);
}
inline void Store(Bf16* p, Vec a) { StoreFirst(p, a, 16); }

// The lanes that the mask names, packed to the front of p; up to 16 lanes are written.
inline void StorePacked(float* p, Vec a, Mask m) {
  for (int i = 0; i < 16; ++i) {
    if (Lane(m, i)) *p++ = a.v[i];
  }
}
inline void StorePacked(uint32_t* p, IVec a, Mask m) {
  for (int i = 0; i < 16; ++i) {
    if (Lane(m, i)) *p++ = a.v[i];
  }
}
