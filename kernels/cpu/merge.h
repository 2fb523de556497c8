// Patch merging: 2 x 2 tokens side by side, LayerNorm, a linear layer to twice the channels.
#pragma once
#include "gemm.h"
#include "norm.h"

namespace crn {
namespace CRN_ISA {

template <bool Bytes>
void merge(const MergeArgs& args, int64_t first, int64_t last, Scratch& scratch) {
  FlushToZero flush;
  const int c = args.c, k = 4 * c, n = args.reduction.n, h = args.h / 2, w = args.w / 2;
  Arena arena(scratch);
  float* y = arena.take<float>(kTokens * k);
  uint8_t* bytes = arena.take<uint8_t>(Bytes ? kTokens * k : 0);
  float* step = arena.take<float>(kTokens);
  float* least = arena.take<float>(kTokens);
  for (int64_t task = first; task < last; task++) {
    const int64_t start = task * kTokens;
    const int m = (int)(args.tokens - start < kTokens ? args.tokens - start : kTokens);
    for (int t = 0; t < kTokens; t++) {
      float* to = y + (int64_t)t * k;
      if (t >= m) {  // a tile of the product takes several rows
        for (int i = 0; i < k; i += W) store(to + i, vf{});
        continue;
      }
      const int64_t token = start + t, slice = token / ((int64_t)h * w);
      const int64_t i = token / w % h, j = token % w;
      for (int part = 0; part < 2; part++) {
        const float* from = args.x + ((slice * args.h + 2 * i + part) * args.w + 2 * j) * c;
        for (int q = 0; q < 2 * c; q += W) store(to + part * 2 * c + q, load(from + q));
      }
    }
    normalise(y, k, m, k, y, k);
    gemm<Bytes>(prepare<Bytes>(y, k, kTokens, k, bytes, step, least), kTokens, args.reduction,
                [&](int r, int column, vf v) {
                  if (r < m) store(args.out + (start + r) * n + column, v);
                });
  }
}

}  // namespace CRN_ISA
}  // namespace crn
