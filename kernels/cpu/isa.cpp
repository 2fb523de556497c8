// The ops for one instruction set: compiled once for each, with CRN_ISA its name, CRN_WIDTH its floats a
// vector, and the compiler's options for it. Nothing of the standard library that has a body may be
// included: the linker would keep one copy of it for all instruction sets.
#include "ops.h"

#include "block.h"
#include "head.h"
#include "merge.h"
#include "stem.h"
#include "survey.h"

#define CRN_STRING2(x) #x
#define CRN_STRING(x) CRN_STRING2(x)

namespace crn {
namespace CRN_ISA {

// Products only in registers: an upper bound for all code on this processor.
#if CRN_WIDTH == 16 && !defined(__AVX512F__)
#define CRN_REGISTER "m"
#elif defined(__x86_64__) || defined(_M_X64)
#define CRN_REGISTER "v"
#elif defined(__aarch64__)
#define CRN_REGISTER "w"
#else
#define CRN_REGISTER "m"
#endif

#define CRN_EACH(i, j)                         \
  CRN_UNROLL for (int i = 0; i < ROWS; i++) \
    CRN_UNROLL for (int j = 0; j < VECTORS; j++)

static double peak_float(int64_t rounds) {
  vf a[ROWS][VECTORS], x = splat(.5f), y = splat(1e-3f);
  CRN_EACH(i, j) a[i][j] = splat((float)(i * VECTORS + j));
  CRN_NO_UNROLL for (int64_t r = 0; r < rounds; r++) CRN_EACH(i, j) a[i][j] = a[i][j] * x + y;
  float total = 0;
  CRN_EACH(i, j) total += sum(a[i][j]);
  return total > -1 ? (double)rounds * ROWS * VECTORS * W : 0;
}

static double peak_bytes(int64_t rounds) {
  vi a[ROWS][VECTORS], x = vi{} + 0x01010101, y = vi{} + 0x02020202;
  CRN_EACH(i, j) a[i][j] = vi{} + (i * VECTORS + j);
  CRN_NO_UNROLL for (int64_t r = 0; r < rounds; r++)
    CRN_EACH(i, j) {
      __asm__ volatile("" : "+" CRN_REGISTER(x));  // else the products would leave the loop
      a[i][j] = dot4(a[i][j], x, y);
    }
  int total = 0;
  CRN_EACH(i, j) total += a[i][j][0];
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
                 {survey<float>, survey<int16_t>}, between,
                 {peak_float, peak_bytes}};

}  // namespace CRN_ISA
}  // namespace crn
