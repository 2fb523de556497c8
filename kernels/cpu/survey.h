// What a slice shows, in one pass over its pixels: range, shares of tissues, and means of 4 x 4 pixels.
#pragma once
#include "ops.h"
#include "vec.h"

namespace crn {
namespace CRN_ISA {

// Vectors of pixels and of their counts: twice as many int16_t as float.
template <class T>
struct Pixel;
template <>
struct Pixel<float> {
  typedef vf VECTOR;
  typedef vf_any ANY;
  typedef vu COUNTS;
};
template <>
struct Pixel<int16_t> {
  typedef int16_t VECTOR __attribute__((vector_size(W * 4)));
  typedef int16_t ANY __attribute__((vector_size(W * 4), aligned(2), may_alias));
  typedef uint16_t COUNTS __attribute__((vector_size(W * 4)));
};

// The number of different whole HU, counted up to `many`.
template <class T>
static int count_levels(const T* hu, int many) {
  constexpr int kLow = -1025, kHigh = 3072;
  bool seen[kHigh - kLow + 1] = {};
  int levels = 0;
  for (int i = 0; i < kSide && levels < many; i++) {
    const T* row = hu + (int64_t)(i * 181 % kSide) * kSide;  // rows far apart: air has few levels
    for (int j = 0; j < kSide; j++) {
      const float x = (float)row[j];
      bool& there = seen[(int)(x < kLow ? kLow : x > kHigh ? kHigh : x) - kLow];
      levels += !there;
      there = true;
    }
  }
  return levels < many ? levels : many;
}

template <class T, bool CELLS>
static void survey_pixels(const SurveyArgs& args) {
  using V = typename Pixel<T>::VECTOR;
  using Counts = typename Pixel<T>::COUNTS;
  constexpr int N = sizeof(V) / sizeof(T);
  const auto splat = [](int x) { return (T)x - V{}; };
  const auto pixels = [](const T* p) { return *(const typename Pixel<T>::ANY*)p; };
  const T* hu = (const T*)args.hu;
  V low = pixels(hu), high = low;
  vi finite = vi{};
  Counts soft = Counts{}, light = Counts{}, dense = Counts{};  // at most 2^15 in 16 bits
  for (int cell = 0; cell < kCells; cell++) {
    const T* band = hu + (int64_t)cell * 4 * kSide;
    alignas(64) T sums[kSide];  // of four pixels, -1000 ... 400 each
    for (int j = 0; j < kSide; j += N) {
      V total[4];
      CRN_UNROLL for (int r = 0; r < 4; r++) {
        const V x = pixels(band + r * kSide + j);
        if constexpr (N == W) {
          const vi bits = (vi)x & 0x7fffffff;
          finite = bits > finite ? bits : finite;
        }
        low = x < low ? x : low;
        high = x > high ? x : high;
        soft -= (Counts)((x > splat(-301)) & (x < splat(401)));
        light -= (Counts)(x <= splat(-30));
        dense -= (Counts)(x >= splat(700));
        const V above = x > splat(-1000) ? x : splat(-1000);
        total[r] = above < splat(400) ? above : splat(400);
      }
      if constexpr (CELLS) *(V*)(sums + j) = (total[0] + total[1]) + (total[2] + total[3]);
    }
    for (int j = 0; CELLS && j < kCells; j++) {
      const T* s = sums + 4 * j;
      args.cells[cell * kCells + j] = (float)((s[0] + s[1]) + (s[2] + s[3])) * (1.f / 16);
    }
  }
  Pixels& out = *args.out;
  out = {};
  int worst = 0;
  CRN_UNROLL for (int i = 0; i < W; i++) worst = finite[i] > worst ? finite[i] : worst;
  out.finite = worst < 0x7f800000;
  if (!out.finite) return;
  T least = low[0], largest = high[0];
  for (int i = 0; i < N; i++) {
    least = low[i] < least ? low[i] : least;
    largest = high[i] > largest ? high[i] : largest;
    out.soft += soft[i];
    out.light += light[i];
    out.dense += dense[i];
  }
  out.low = (float)least;
  out.high = (float)largest;
  out.levels = count_levels(hu, args.many);
}

template <class T>
static void survey(const SurveyArgs& args) {
  args.cells == nullptr ? survey_pixels<T, false>(args) : survey_pixels<T, true>(args);
}

static void between(const float* cells, float low, float high, uint64_t* words) {
  for (int i = 0; i < kCells * kCells; i += 64) {
    uint64_t word = 0;
    CRN_UNROLL for (int j = 0; j < 64; j += W) {
      const vf x = load(cells + i + j);
      word |= (uint64_t)bits((x > splat(low)) & (x < splat(high))) << j;
    }
    words[i / 64] = word;
  }
}

}  // namespace CRN_ISA
}  // namespace crn
