// 2^x for the softmax, and GELU: exact to float32, or to the precision of 8 bits.
#pragma once
#include "vec.h"

namespace crn {
namespace CRN_ISA {

// 2^x for x <= 0, at least 2^-126. Relative error 1e-7 (or 3e-6): a polynomial of the fraction, whose
// exponent is then raised. The sum with 1.5 * 2^23 rounds; no -ffast-math, which would drop it.
template <bool Exact>
CRN_INLINE vf exp2(vf x) {
  const float shift = 12582912.f;
  x = max(x, splat(-126.f));
  const vf whole = x + shift;
  const vf r = x - (whole - shift);
  vf p;
  if constexpr (Exact) {
    p = 1.339887441e-03f + r * 1.535336191e-04f;
    p = p * r + 9.618437358e-03f;
    p = p * r + 5.550332471e-02f;
    p = p * r + 2.402264791e-01f;
    p = p * r + 6.931472029e-01f;
  } else {
    p = 5.590642468e-02f + r * 9.582853038e-03f;
    p = p * r + 2.402409861e-01f;
    p = p * r + 6.931241934e-01f;
  }
  p = p * r + 1.f;
  return (vf)((vi)p + ((vi)whole << 23));
}

// x * Phi(x). Exact: erf by a rational function, within 4e-7. Else an odd polynomial, within 2e-4.
template <bool Exact>
CRN_INLINE vf gelu(vf x) {
  if constexpr (Exact) {
    const vf y = min(max(x * 0.70710678118654752f, splat(-4.f)), splat(4.f)), z = y * y;
    vf p = 2.880399387e-04f + z * 1.974826246e-06f;
    p = p * z + 4.003611316e-03f;
    p = p * z + 5.346737000e-02f;
    p = p * z + 1.962482759e-01f;
    p = p * z + 1.128378976e+00f;
    vf q = 1.216350199e-03f + z * 3.748074512e-05f;
    q = q * z + 1.544435346e-02f;
    q = q * z + 1.164761226e-01f;
    q = q * z + 5.072516653e-01f;
    q = q * z + 1.f;
    const vf half = x * .5f;
    return half + half * (y * p / q);
  }
  const vf y = min(max(x, splat(-4.f)), splat(4.f)), z = y * y;
  vf p = -1.598605980e-06f + z * 2.278151254e-08f;
  p = p * z + 4.795559079e-05f;
  p = p * z - 8.140161502e-04f;
  p = p * z + 8.772391496e-03f;
  p = p * z - 6.457311760e-02f;
  p = p * z + 3.978833544e-01f;
  return x * (.5f + y * p);
}

}  // namespace CRN_ISA
}  // namespace crn
