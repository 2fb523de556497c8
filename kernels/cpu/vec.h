// Vectors of CRN_WIDTH floats by GCC's and Clang's vector extensions, and the products of bytes.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define CRN_INLINE static inline __attribute__((always_inline))
#define CRN_NOINLINE static __attribute__((noinline))
#define CRN_UNROLL _Pragma("GCC unroll 16")
#define CRN_NO_UNROLL _Pragma("GCC unroll 1")

namespace crn {
namespace CRN_ISA {

constexpr int W = CRN_WIDTH;
typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef float vf_any __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(W * 4), aligned(4), may_alias));

// Accumulators of a tile: ROWS x VECTORS registers of 16 or 32.
#if defined(__AVX512F__) || defined(__aarch64__) || CRN_WIDTH == 16
constexpr int ROWS = 8, KEYS = 8;
#else
constexpr int ROWS = 4, KEYS = 4;
#endif
constexpr int VECTORS = 3, COLUMNS = VECTORS * W;

CRN_INLINE vf load(const float* p) { return *(const vf_any*)p; }
CRN_INLINE void store(float* p, vf x) { *(vf_any*)p = x; }
CRN_INLINE vf splat(float x) { return x - vf{}; }  // adding 0 would be an addition: -0 + 0 is 0
CRN_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
CRN_INLINE vf min(vf a, vf b) { return a < b ? a : b; }

CRN_INLINE float sum(vf x) {
  float s = 0;
  CRN_UNROLL for (int i = 0; i < W; i++) s += x[i];
  return s;
}
CRN_INLINE float largest(vf x) {
  float s = x[0];
  CRN_UNROLL for (int i = 1; i < W; i++) s = x[i] > s ? x[i] : s;
  return s;
}
CRN_INLINE float smallest(vf x) {
  float s = x[0];
  CRN_UNROLL for (int i = 1; i < W; i++) s = x[i] < s ? x[i] : s;
  return s;
}
CRN_INLINE vf square_root(vf x) {
#if defined(__AVX512F__) && CRN_WIDTH == 16
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__) && CRN_WIDTH == 8
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  CRN_UNROLL for (int i = 0; i < W; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Bit i is set where lane i of a comparison is.
CRN_INLINE uint32_t bits(vi flags) {
#if defined(__AVX512DQ__) && CRN_WIDTH == 16
  return _mm512_movepi32_mask((__m512i)flags);
#elif defined(__AVX__) && CRN_WIDTH == 8
  return (uint32_t)_mm256_movemask_ps((__m256)flags);
#elif defined(__SSE__) && CRN_WIDTH == 4
  return (uint32_t)_mm_movemask_ps((__m128)flags);
#elif defined(__aarch64__) && CRN_WIDTH == 4
  return vaddvq_u32((uint32x4_t)(flags & vi{1, 2, 4, 8}));
#else
  uint32_t all = 0;
  CRN_UNROLL for (int i = 0; i < W; i++) all |= (uint32_t)(flags[i] & 1) << i;
  return all;
#endif
}

// One step of a transposition: exchanges blocks of S lanes between rows r and r + S.

template <int S>
CRN_INLINE void exchange(vf& x, vf& y) {
  vf a = x, b = y;
#if defined(__clang__)
  CRN_UNROLL for (int i = 0; i < W; i++) {
    x[i] = i & S ? b[i ^ S] : a[i];
    y[i] = i & S ? b[i] : a[i ^ S];
  }
#else
  vi lane;
  CRN_UNROLL for (int i = 0; i < W; i++) lane[i] = i;
  const vi other = lane ^ S;
  x = __builtin_shuffle(a, b, (lane & S) == 0 ? lane : other + W);
  y = __builtin_shuffle(a, b, (lane & S) == 0 ? other : lane + W);
#endif
}
template <int S>
CRN_INLINE void exchange_all(vf* rows) {
  CRN_UNROLL for (int r = 0; r < W; r++)
    if (!(r & S)) exchange<S>(rows[r], rows[r + S]);
}
// W x W floats in registers.
CRN_INLINE void transpose(vf* rows) {
  exchange_all<1>(rows);
  exchange_all<2>(rows);
  if constexpr (W >= 8) exchange_all<4>(rows);
  if constexpr (W >= 16) exchange_all<8>(rows);
}

// Sums of products of four neighbouring bytes, added to c. Activations are 0 ... LEVELS, less OFFSET
// where the instruction takes them with a sign; weights are -WEIGHTS ... WEIGHTS.
#if defined(__AVX512VNNI__) && CRN_WIDTH == 16
constexpr int LEVELS = 255, OFFSET = 0, WEIGHTS = 127;
CRN_INLINE vi dot4(vi c, vi x, vi w) {
  // GCC 12 spills the accumulators of the intrinsic.
  __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(x), "v"(w));
  return c;
}
#elif defined(__AVX2__) && CRN_WIDTH == 8
// Two products of 255 and 64 are all that the 16 bits between hold.
constexpr int LEVELS = 255, OFFSET = 0, WEIGHTS = 64;
CRN_INLINE vi dot4(vi c, vi x, vi w) {
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, (__m256i)w);
  return c + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int LEVELS = 255, OFFSET = 128, WEIGHTS = 127;
CRN_INLINE vi dot4(vi c, vi x, vi w) {
  return (vi)vdotq_s32((int32x4_t)c, (int8x16_t)x, (int8x16_t)w);
}
#else
constexpr int LEVELS = 255, OFFSET = 0, WEIGHTS = 127;
CRN_INLINE vi dot4(vi c, vi x, vi w) {
  CRN_UNROLL for (int b = 0; b < 32; b += 8)
    c += (vi)(((vu)x >> b) & 255u) * ((vi)((vu)w << (24 - b)) >> 24);
  return c;
}
#endif

// Sums of products of floats, or of pairs of 16-bit integers where the processor has these. Pairs of
// bfloat16 gained nothing over them.
CRN_INLINE vf multiply_add(vf c, vf x, float y) { return c + x * y; }
#if defined(__AVX512VNNI__) && CRN_WIDTH == 16
constexpr bool PAIRS = true;
CRN_INLINE vi rounded(vf x) { return (vi)_mm512_cvtps_epi32((__m512)x); }
// Rounded to 16 bits, in which they must lie: lane i holds low[i] and, in its high half, high[i].
CRN_INLINE vi pair(vf low, vf high) { return (rounded(low) & 0xffff) | (rounded(high) << 16); }
// W neighbouring floats as W / 2 pairs.
CRN_INLINE void store_pairs(int32_t* p, vf x) {
  *(__m256i*)p = _mm512_cvtepi32_epi16((__m512i)rounded(x));
}
CRN_INLINE vi multiply_add(vi c, vi x, int32_t y) {
  // As in dot4.
  __asm__("vpdpwssd %2, %1, %0" : "+v"(c) : "v"(x), "v"(vi{} + y));
  return c;
}
#else
constexpr bool PAIRS = false;
CRN_INLINE vi pair(vf low, vf) { return (vi)low; }
CRN_INLINE void store_pairs(int32_t*, vf) {}
CRN_INLINE vi multiply_add(vi c, vi, int32_t) { return c; }
#endif

// Writes the lanes of x, 0 ... LEVELS, less OFFSET, as bytes.
CRN_INLINE void store_bytes(uint8_t* p, vi x) {
  x -= OFFSET;
#if defined(__AVX512F__) && CRN_WIDTH == 16
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)x));
#elif defined(__AVX2__) && CRN_WIDTH == 8
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(words, words));
#else
  CRN_UNROLL for (int i = 0; i < W; i++) p[i] = (uint8_t)x[i];
#endif
}

// Results below 1e-38 become zero for the time of a task: powers of small weights would otherwise take
// a hundred cycles each.
class FlushToZero {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FlushToZero() : old_(_mm_getcsr()) { _mm_setcsr(old_ | 0x8040); }
  ~FlushToZero() { _mm_setcsr(old_); }
 private:
  unsigned old_;
#elif defined(__aarch64__)
  FlushToZero() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(old_));
    __asm__ volatile("msr fpcr, %0" : : "r"(old_ | (uint64_t(1) << 24)));
  }
  ~FlushToZero() { __asm__ volatile("msr fpcr, %0" : : "r"(old_)); }
 private:
  uint64_t old_;
#endif
};

// Bump allocation of a task's rows.
class Arena {
 public:
  explicit Arena(const Scratch& scratch) : at_(scratch.memory) {}
  template <class T>
  T* take(size_t n) {
    T* found = (T*)at_;
    at_ += (n * sizeof(T) + 63) / 64 * 64;
    return found;
  }
 private:
  char* at_;
};

}  // namespace CRN_ISA
}  // namespace crn
