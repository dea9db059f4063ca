// The vector types of simd_inl.h on AVX2 and FMA: two registers a vector, lanes 0 to 7 in the
// first. Included by simd_inl.h alone, inside the namespace of the path.

struct Vec {
  __m256 a, b;
};
struct IVec {
  __m256i a, b;
};
struct Mask {
  __m256i a, b;  // a lane is all ones or all zeros
};

inline Mask FirstLanes(int n) {
  const __m256i count = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline uint32_t Bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m.a))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m.b))) << 8;
}
inline Mask And(Mask x, Mask y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline Mask Or(Mask x, Mask y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }

inline Vec Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec LoadFirst(const float* p, int n) {
  const Mask m = FirstLanes(n);
  return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
inline void Store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline void StoreFirst(float* p, Vec x, int n) {
  const Mask m = FirstLanes(n);
  _mm256_maskstore_ps(p, m.a, x.a);
  _mm256_maskstore_ps(p + 8, m.b, x.b);
}

inline Vec Add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec Sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec Mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec Div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec Sqrt(Vec x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
inline Vec Fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec Max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
template <int kPredicate>
inline Mask Compare(Vec x, Vec y) {
  return {_mm256_castps_si256(_mm256_cmp_ps(x.a, y.a, kPredicate)),
          _mm256_castps_si256(_mm256_cmp_ps(x.b, y.b, kPredicate))};
}
inline Mask Greater(Vec x, Vec y) { return Compare<_CMP_GT_OQ>(x, y); }
inline Mask GreaterEqual(Vec x, Vec y) { return Compare<_CMP_GE_OQ>(x, y); }
inline Mask Equal(Vec x, Vec y) { return Compare<_CMP_EQ_OQ>(x, y); }
inline Vec Select(Mask m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_castsi256_ps(m.a)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_castsi256_ps(m.b))};
}

inline IVec ISet1(uint32_t x) {
  return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))};
}
inline IVec ILoad(const uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline void IStore(uint32_t* p, IVec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline IVec IAdd(IVec x, IVec y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline IVec ISub(IVec x, IVec y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
inline IVec IAnd(IVec x, IVec y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
inline IVec IOr(IVec x, IVec y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline IVec IXor(IVec x, IVec y) {
  return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
template <int kBits>
inline IVec ShiftLeft(IVec x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
inline IVec ShiftRight(IVec x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
template <int kBits>
inline IVec ShiftRightSigned(IVec x) {
  return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}
inline Mask IGreaterSigned(IVec x, IVec y) {
  return {_mm256_cmpgt_epi32(x.a, y.a), _mm256_cmpgt_epi32(x.b, y.b)};
}
inline IVec ISelect(Mask m, IVec yes, IVec no) {
  return {_mm256_blendv_epi8(no.a, yes.a, m.a), _mm256_blendv_epi8(no.b, yes.b, m.b)};
}
inline Vec ToFloatSigned(IVec x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Vec AsFloat(IVec x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline IVec AsInt(Vec x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }

inline void MulWideHalf(__m256i x, __m256i factor, __m256i* high, __m256i* low) {
  const __m256i even = _mm256_mul_epu32(x, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
// The 64-bit products of the lanes with `factor`, in halves.
inline void MulWide(IVec x, uint32_t factor, IVec* high, IVec* low) {
  const __m256i f = _mm256_set1_epi32(static_cast<int>(factor));
  MulWideHalf(x.a, f, &high->a, &low->a);
  MulWideHalf(x.b, f, &high->b, &low->b);
}

inline void Transpose4Half(__m256i* v0, __m256i* v1, __m256i* v2, __m256i* v3) {
  const __m256i a = _mm256_unpacklo_epi32(*v0, *v1);
  const __m256i b = _mm256_unpackhi_epi32(*v0, *v1);
  const __m256i c = _mm256_unpacklo_epi32(*v2, *v3);
  const __m256i d = _mm256_unpackhi_epi32(*v2, *v3);
  *v0 = _mm256_unpacklo_epi64(a, c);
  *v1 = _mm256_unpackhi_epi64(a, c);
  *v2 = _mm256_unpacklo_epi64(b, d);
  *v3 = _mm256_unpackhi_epi64(b, d);
}
// Within each group of four lanes, the 4 × 4 matrix whose rows are the vectors is transposed.
inline void Transpose4(IVec v[4]) {
  Transpose4Half(&v[0].a, &v[1].a, &v[2].a, &v[3].a);
  Transpose4Half(&v[0].b, &v[1].b, &v[2].b, &v[3].b);
}

inline __m256 WidenHalf(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec Load(const Bf16* p) {
  return {WidenHalf(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          WidenHalf(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec LoadFirst(const Bf16* p, int n) {
  Bf16 lanes[16] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * sizeof(Bf16));
  return Load(lanes);
}
inline void Store(Bf16* p, Vec x) {
  const IVec bits = Bf16Bits(AsInt(x));
  // packus works within 128-bit halves: the quarters come out as a0 b0 a1 b1.
  const __m256i packed =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(bits.a, bits.b), _MM_SHUFFLE(3, 1, 2, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
inline void StoreFirst(Bf16* p, Vec x, int n) {
  Bf16 lanes[16];
  Store(lanes, x);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * sizeof(Bf16));
}

// For each set of eight lanes, which lanes it holds, lowest first, a byte each.
struct LaneLists {
  uint64_t of[256];
};
constexpr LaneLists MakeLaneLists() {
  LaneLists lists{};
  for (uint32_t set = 0; set < 256; ++set) {
    int shift = 0;
    for (uint64_t lane = 0; lane < 8; ++lane) {
      if ((set >> lane & 1) == 0) continue;
      lists.of[set] |= lane << shift;
      shift += 8;
    }
  }
  return lists;
}
constexpr LaneLists kLaneLists = MakeLaneLists();

inline __m256i PackHalf(__m256i lanes, uint32_t set) {
  const __m128i list = _mm_cvtsi64_si128(static_cast<long long>(kLaneLists.of[set]));
  return _mm256_permutevar8x32_epi32(lanes, _mm256_cvtepu8_epi32(list));
}

// The lanes that the mask names, packed to the front of p; up to 16 lanes are written.
inline void StorePacked(uint32_t* p, IVec x, Mask m) {
  const uint32_t bits = Bits(m);
  const uint32_t low = bits & 0xFF;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), PackHalf(x.a, low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + __builtin_popcount(low)),
                      PackHalf(x.b, bits >> 8));
}
inline void StorePacked(float* p, Vec x, Mask m) {
  const uint32_t bits = Bits(m);
  const uint32_t low = bits & 0xFF;
  _mm256_storeu_ps(p, _mm256_castsi256_ps(PackHalf(_mm256_castps_si256(x.a), low)));
  _mm256_storeu_ps(p + __builtin_popcount(low),
                   _mm256_castsi256_ps(PackHalf(_mm256_castps_si256(x.b), bits >> 8)));
}
