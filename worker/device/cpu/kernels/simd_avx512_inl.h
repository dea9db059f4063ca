// The vector types of simd_inl.h on AVX-512 F, BW, VL and DQ: one register a vector.
// Included by simd_inl.h alone, inside the namespace of the path.

struct Vec {
  __m512 v;
};
struct IVec {
  __m512i v;
};
struct Mask {
  __mmask16 m;
};

inline Mask FirstLanes(int n) { return {static_cast<__mmask16>((1u << n) - 1)}; }
inline uint32_t Bits(Mask m) { return m.m; }
inline Mask And(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline Mask Or(Mask a, Mask b) { return {static_cast<__mmask16>(a.m | b.m)}; }

inline Vec Set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec LoadFirst(const float* p, int n) { return {_mm512_maskz_loadu_ps(FirstLanes(n).m, p)}; }
inline void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void StoreFirst(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n).m, a.v); }

inline Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec Sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Mask Greater(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask GreaterEqual(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline Mask Equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec Select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }

inline IVec ISet1(uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
inline IVec ILoad(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void IStore(uint32_t* p, IVec a) { _mm512_storeu_si512(p, a.v); }
inline IVec IAdd(IVec a, IVec b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline IVec ISub(IVec a, IVec b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline IVec IAnd(IVec a, IVec b) { return {_mm512_and_si512(a.v, b.v)}; }
inline IVec IOr(IVec a, IVec b) { return {_mm512_or_si512(a.v, b.v)}; }
inline IVec IXor(IVec a, IVec b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int kBits>
inline IVec ShiftLeft(IVec a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline IVec ShiftRight(IVec a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
inline IVec ShiftRightSigned(IVec a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline Mask IGreaterSigned(IVec a, IVec b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
inline IVec ISelect(Mask m, IVec yes, IVec no) {
  return {_mm512_mask_blend_epi32(m.m, no.v, yes.v)};
}
inline Vec ToFloatSigned(IVec a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Vec AsFloat(IVec a) { return {_mm512_castsi512_ps(a.v)}; }
inline IVec AsInt(Vec a) { return {_mm512_castps_si512(a.v)}; }

// The 64-bit products of the lanes with `factor`, in halves.
inline void MulWide(IVec a, uint32_t factor, IVec* high, IVec* low) {
  const __m512i f = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(a.v, f);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), f);
  high->v = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low->v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

// Within each group of four lanes, the 4 × 4 matrix whose rows are the vectors is transposed.
inline void Transpose4(IVec v[4]) {
  const __m512i a = _mm512_unpacklo_epi32(v[0].v, v[1].v);
  const __m512i b = _mm512_unpackhi_epi32(v[0].v, v[1].v);
  const __m512i c = _mm512_unpacklo_epi32(v[2].v, v[3].v);
  const __m512i d = _mm512_unpackhi_epi32(v[2].v, v[3].v);
  v[0].v = _mm512_unpacklo_epi64(a, c);
  v[1].v = _mm512_unpackhi_epi64(a, c);
  v[2].v = _mm512_unpacklo_epi64(b, d);
  v[3].v = _mm512_unpackhi_epi64(b, d);
}

inline Vec Load(const Bf16* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline Vec LoadFirst(const Bf16* p, int n) {
  const __m256i half = _mm256_maskz_loadu_epi16(FirstLanes(n).m, p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline void Store(Bf16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(Bf16Bits(AsInt(a)).v));
}
inline void StoreFirst(Bf16* p, Vec a, int n) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n).m, _mm512_cvtepi32_epi16(Bf16Bits(AsInt(a)).v));
}

// The lanes that the mask names, packed to the front of p; 16 lanes are written.
inline void StorePacked(float* p, Vec a, Mask m) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(m.m, a.v));
}
inline void StorePacked(uint32_t* p, IVec a, Mask m) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(m.m, a.v));
}
