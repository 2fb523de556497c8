// What a slice shows, in one pass over its pixels: range, shares of tissues, and means of 4 x 4 pixels.
#pragma once
#include "ops.h"
#include "vec.h"

namespace crn {
namespace CRN_ISA {

typedef int16_t vs_any __attribute__((vector_size(W * 2), aligned(2), may_alias));

CRN_INLINE vf pixels(const float* p) { return load(p); }
CRN_INLINE vf pixels(const int16_t* p) { return __builtin_convertvector(*(const vs_any*)p, vf); }

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

template <class T>
static void survey(const SurveyArgs& args) {
  const T* hu = (const T*)args.hu;
  vf low = pixels(hu), high = low;
  vi finite = vi{}, soft = vi{}, light = vi{}, dense = vi{};
  for (int cell = 0; cell < kCells; cell++) {
    const T* band = hu + (int64_t)cell * 4 * kSide;
    alignas(64) float sums[kSide];
    for (int j = 0; j < kSide; j += W) {
      vf total[4];
      CRN_UNROLL for (int r = 0; r < 4; r++) {
        const vf x = pixels(band + r * kSide + j);
        const vi bits = (vi)x & 0x7fffffff;
        finite = bits > finite ? bits : finite;
        low = min(x, low);
        high = max(x, high);
        soft -= (x > splat(-301.f)) & (x < splat(401.f));
        light -= x <= splat(-30.f);
        dense -= x >= splat(700.f);
        total[r] = min(max(x, splat(-1000.f)), splat(400.f));
      }
      store(sums + j, (total[0] + total[1]) + (total[2] + total[3]));
    }
    for (int j = 0; args.cells != nullptr && j < kCells; j++) {
      const float* s = sums + 4 * j;
      args.cells[cell * kCells + j] = ((s[0] + s[1]) + (s[2] + s[3])) * (1.f / 16);
    }
  }
  Pixels& out = *args.out;
  out = {};
  int worst = 0;
  CRN_UNROLL for (int i = 0; i < W; i++) {
    worst = finite[i] > worst ? finite[i] : worst;
    out.soft += soft[i];
    out.light += light[i];
    out.dense += dense[i];
  }
  out.finite = worst < 0x7f800000;
  if (!out.finite) return;
  out.low = smallest(low);
  out.high = largest(high);
  out.levels = count_levels(hu, args.many);
}

}  // namespace CRN_ISA
}  // namespace crn
