// The ops for one instruction set: compiled once for each, with CRN_ISA its name, CRN_WIDTH its floats a
// vector, and the compiler's options for it. Nothing of the standard library that has a body may be
// included: the linker would keep one copy of it for all instruction sets.
#include "ops.h"

#include "block.h"
#include "head.h"
#include "merge.h"
#include "stem.h"

#define CRN_STRING2(x) #x
#define CRN_STRING(x) CRN_STRING2(x)

namespace crn {
namespace CRN_ISA {

// Products only in registers: an upper bound for all code on this processor.
static double peak_float(int64_t rounds) {
  vf a[ROWS * VECTORS], x = splat(.5f), y = splat(1e-3f);
  CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) a[i] = splat((float)i);
  for (int64_t r = 0; r < rounds; r++) {
    CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) a[i] = a[i] * x + y;
    __asm__ volatile("" : : : "memory");
  }
  float total = 0;
  CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) total += sum(a[i]);
  return total > -1 ? (double)rounds * ROWS * VECTORS * W : 0;
}

static double peak_bytes(int64_t rounds) {
  vi a[ROWS * VECTORS], x = vi{} + 0x01010101, y = vi{} + 0x02020202;
  CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) a[i] = vi{} + i;
  for (int64_t r = 0; r < rounds; r++) {
    CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) {
      __asm__ volatile("" : "+m"(x));  // else the products would leave the loop
      a[i] = dot4(a[i], x, y);
    }
  }
  int total = 0;
  CRN_UNROLL for (int i = 0; i < ROWS * VECTORS; i++) total += a[i][0];
  return total != -1 ? (double)rounds * ROWS * VECTORS * W * 4 : 0;
}

extern const Ops ops;
const Ops ops = {CRN_STRING(CRN_ISA), W, COLUMNS, WEIGHTS,
#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
                 true,
#else
                 false,
#endif
                 {block<false>, block<true>}, {merge<false>, merge<true>}, stem, head,
                 {peak_float, peak_bytes}};

}  // namespace CRN_ISA
}  // namespace crn
