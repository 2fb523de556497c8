// LayerNorm of rows, without its weight and bias.
#pragma once
#include "vec.h"

namespace crn {
namespace CRN_ISA {

// x [m, c] at rows of ld_x floats -> y [m, c].
CRN_INLINE void normalise(const float* x, int64_t ld_x, int m, int c, float* y, int64_t ld_y) {
  const float share = 1.f / (float)c;
  for (int r = 0; r < m; r++, x += ld_x, y += ld_y) {
    vf total{};
    for (int i = 0; i < c; i += W) total += load(x + i);
    const vf mean = splat(sum(total) * share);
    vf squares{};
    for (int i = 0; i < c; i += W) {
      const vf d = load(x + i) - mean;
      squares += d * d;
    }
    const vf inverse = splat(1.f / __builtin_sqrtf(sum(squares) * share + kEps));
    for (int i = 0; i < c; i += W) store(y + i, (load(x + i) - mean) * inverse);
  }
}

}  // namespace CRN_ISA
}  // namespace crn
