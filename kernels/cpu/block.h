// A block of a stage, one window a task: both halves of it while the window lies in the cache.
#pragma once
#include "attention.h"
#include "gemm.h"
#include "norm.h"

namespace crn {
namespace CRN_ISA {

template <bool Bytes>
void block(const BlockArgs& args, int64_t first, int64_t last, Scratch& scratch) {
  FlushToZero flush;
  const int c = args.c, hidden = args.fc1.n, rows = args.h / kWindow, columns = args.w / kWindow;
  const int wide = hidden > 3 * c ? hidden : 3 * c, d = c / args.heads;
  Arena arena(scratch);
  float* x = arena.take<float>(kTokens * c);
  float* y = arena.take<float>(kTokens * c);
  float* h = arena.take<float>(kTokens * wide);
  uint8_t* bytes = arena.take<uint8_t>(Bytes ? kTokens * wide : 0);
  float* step = arena.take<float>(kTokens);
  float* least = arena.take<float>(kTokens);
  float* at[kTokens];
  for (int64_t task = first; task < last; task++) {
    const int64_t slice = task / ((int64_t)rows * columns);
    const int row = (int)(task / columns % rows), column = (int)(task % columns);
    for (int t = 0; t < kTokens; t++) {
      int i = row * kWindow + t / kWindow + args.shift;
      int j = column * kWindow + t % kWindow + args.shift;
      i -= i >= args.h ? args.h : 0;
      j -= j >= args.w ? args.w : 0;
      at[t] = args.x + ((slice * args.h + i) * args.w + j) * c;
      for (int k = 0; k < c; k += W) store(x + t * c + k, load(at[t] + k));
    }
    const auto add = [&](int r, int n, vf v) { store(x + r * c + n, load(x + r * c + n) + v); };
    if (args.attends) {
      normalise(x, c, kTokens, c, y, c);
      gemm<Bytes>(prepare<Bytes>(y, c, kTokens, c, bytes, step, least), kTokens, args.qkv,
                  [&](int r, int n, vf v) { store(h + (int64_t)r * 3 * c + n, v); });
      const bool bottom = args.shift && row == rows - 1, right = args.shift && column == columns - 1;
      const float* mask = bottom ? kMasks.of[right ? 2 : 0] : right ? kMasks.of[1] : nullptr;
      for (int head = 0; head < args.heads; head++) {
        const auto one = d == 16 ? attend<!Bytes, 16> : attend<!Bytes, 32>;
        one(h + head * d, c, args.sharpness[head], args.position + (int64_t)head * kTokens * kTokens,
            mask, args.gates + head * kOctaves, y + head * d);
      }
      gemm<Bytes>(prepare<Bytes>(y, c, kTokens, c, bytes, step, least), kTokens, args.projection,
                  add);
    }
    if (args.mixes) {
      normalise(x, c, kTokens, c, y, c);
      gemm<Bytes>(
          prepare<Bytes>(y, c, kTokens, c, bytes, step, least), kTokens, args.fc1,
          [&](int r, int n, vf v) { store(h + (int64_t)r * hidden + n, gelu<!Bytes>(v)); });
      gemm<Bytes>(prepare<Bytes>(h, hidden, kTokens, hidden, bytes, step, least), kTokens, args.fc2,
                  add);
    }
    for (int t = 0; t < kTokens; t++)
      for (int k = 0; k < c; k += W) store(at[t] + k, load(x + t * c + k));
  }
}

}  // namespace CRN_ISA
}  // namespace crn
