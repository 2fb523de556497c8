// The head's LayerNorm and its votes, 64 tokens a task.
#pragma once
#include "gemm.h"
#include "norm.h"

namespace crn {
namespace CRN_ISA {

void head(const HeadArgs& args, int64_t first, int64_t last, Scratch& scratch) {
  FlushToZero flush;
  const int c = args.c, n = args.vote.padded;
  Arena arena(scratch);
  float* y = arena.take<float>(kTokens * c);
  for (int64_t task = first; task < last; task++) {
    const int64_t start = task * kTokens;
    const int m = (int)(args.tokens - start < kTokens ? args.tokens - start : kTokens);
    normalise(args.x + start * c, c, m, c, y, c);
    for (int i = m * c; i < kTokens * c; i++) y[i] = 0;
    for (int i = 0; i < m * c; i += W) store(args.normalised + start * c + i, load(y + i));
    gemm<false>({y, nullptr, nullptr, nullptr, c}, kTokens, args.vote, [&](int r, int k, vf v) {
      if (r < m) store(args.votes + (start + r) * n + k, v);
    });
  }
}

}  // namespace CRN_ISA
}  // namespace crn
