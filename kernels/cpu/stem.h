// Hounsfield units to tokens: encoding, Sobel edges, two convolutions of stride 2, LayerNorm, and the
// statistics of tiles. Rows have the channels of a pixel side by side: three neighbouring pixels of
// three rows are then three runs of the shared product.
#pragma once
#include <math.h>

#include "activation.h"
#include "gemm.h"
#include "norm.h"

namespace crn {
namespace CRN_ISA {

constexpr int kPad = 16;  // floats before a row, whose last ones are the pixel left of the image
constexpr int kTile = 8;  // tokens of a side of a tile

// Row y of [h, w] Hounsfield units, the nearest row outside of the image -> 0 ... 1, with one pixel
// more at either end.
CRN_INLINE void encode(const float* hu, int h, int w, int y, float* to) {
  y = y < 0 ? 0 : y >= h ? h - 1 : y;
  const float* from = hu + (int64_t)y * w;
  for (int i = 0; i < w; i += W)
    store(to + i, min(max((load(from + i) + 1000.f) / 1400.f, vf{}), splat(1.f)));
  to[-1] = to[0];
  to[w] = to[w - 1];
}

// Three encoded rows -> [w][4]: intensity, its two gradients and their size.
CRN_INLINE void edges(const float* a, const float* b, const float* c, int w, float* to) {
  alignas(64) float planes[4][W];
  for (int i = 0; i < w; i += W) {
    const vf a0 = load(a + i - 1), a1 = load(a + i), a2 = load(a + i + 1);
    const vf c0 = load(c + i - 1), c1 = load(c + i), c2 = load(c + i + 1);
    const vf b1 = load(b + i);
    const vf x = ((a2 - a0) + 2.f * (load(b + i + 1) - load(b + i - 1)) + (c2 - c0)) * .125f;
    const vf y = ((c0 - a0) + 2.f * (c1 - a1) + (c2 - a2)) * .125f;
    store(planes[0], b1);
    store(planes[1], x);
    store(planes[2], y);
    store(planes[3], square_root(x * x + y * y + 1e-6f));
    CRN_UNROLL for (int k = 0; k < W; k++)
      CRN_UNROLL for (int p = 0; p < 4; p++) to[4 * (i + k) + p] = planes[p][k];
  }
}

// 3 x 3 of stride 2 over rows of `from` channels -> [w][n]: then(pixel, channel, W values).
template <class Then>
CRN_INLINE void convolve(const float* const* rows, int from, int w, const Linear& layer, Then then) {
  alignas(64) float sums[ROWS * COLUMNS];
  for (int n = 0; n < layer.n; n += COLUMNS)
    for (int p = 0; p < w; p += ROWS) {
      const float* runs[3];
      for (int i = 0; i < 3; i++) runs[i] = rows[i] + (int64_t)(2 * p - 1) * from;
      tile<3>(runs, 2 * from, 3 * from, (const float*)layer.weights + (int64_t)n * layer.k, sums);
      // Pixel by pixel: the last vector may reach into the next pixel, which is written after it.
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS && n + j < layer.n; j += W)
          then(p + i, n + j, load(sums + i * COLUMNS + j) + load(layer.bias + n + j));
    }
}

// Mean and log deviation of the channels in each tile of kTile rows of tokens.
CRN_INLINE void describe(const float* tokens, int w, int c, float* to) {
  for (int tile = 0; tile < w / kTile; tile++, to += 2 * c)
    for (int k = 0; k < c; k += W) {
      const float* from = tokens + (int64_t)tile * kTile * c + k;
      vf total{}, squares{};
      for (int i = 0; i < kTile; i++) {
        vf part{};
        for (int j = 0; j < kTile; j++) part += load(from + ((int64_t)i * w + j) * c);
        total += part;
      }
      const vf mean = total / (float)(kTile * kTile);
      for (int i = 0; i < kTile; i++) {
        vf part{};
        for (int j = 0; j < kTile; j++) {
          const vf d = load(from + ((int64_t)i * w + j) * c) - mean;
          part += d * d;
        }
        squares += part;
      }
      store(to + k, mean);
      const vf variance = squares / (float)(kTile * kTile) + 1e-4f;
      for (int i = 0; i < W; i++) to[c + k + i] = .5f * logf(variance[i]);
    }
}

void stem(const StemArgs& args, int64_t first, int64_t last, Scratch& scratch) {
  FlushToZero flush;
  const int h = args.h, w = args.w, c = args.c, c1 = args.conv1.n, bands = h / 32;
  Arena arena(scratch);
  float *raw[3], *in[4], *mid[4], *none[2];
  for (float*& row : raw) row = arena.take<float>(kPad + w + kPad) + kPad;
  const int pad1 = (4 + 15) / 16 * 16, pad2 = (c1 + 15) / 16 * 16;
  for (float*& row : in) row = arena.take<float>(pad1 + 4 * w) + pad1;
  for (float*& row : mid) row = arena.take<float>(pad2 + c1 * (w / 2) + W) + pad2;
  none[0] = arena.take<float>(pad1 + 4 * w);
  none[1] = arena.take<float>(pad2 + c1 * (w / 2));
  for (float*& row : in)
    for (int i = 1; i <= 4; i++) row[-i] = 0;
  for (float*& row : mid)
    for (int i = 1; i <= c1; i++) row[-i] = 0;
  for (int i = 0; i < pad1 + 4 * w; i++) none[0][i] = 0;
  for (int i = 0; i < pad2 + c1 * (w / 2); i++) none[1][i] = 0;
  none[0] += pad1;
  none[1] += pad2;
  for (int64_t task = first; task < last; task++) {
    const int64_t slice = task / bands;
    const int band = (int)(task % bands), y0 = band * kTile;
    const float* hu = args.hu + slice * h * w;
    float* out = args.tokens + (slice * (h / 4) + y0) * (w / 4) * c;
    int edge_next = 4 * y0 - 3, mid_next = 2 * y0 - 1;  // the first rows that are needed
    edge_next = edge_next < 0 ? 0 : edge_next;
    mid_next = mid_next < 0 ? 0 : mid_next;
    for (int y = y0; y < y0 + kTile; y++) {
      for (; mid_next <= 2 * y + 1; mid_next++) {
        for (; edge_next <= 2 * mid_next + 1; edge_next++) {
          for (int i = 0; i < 3; i++) encode(hu, h, w, edge_next + i - 1, raw[i]);
          edges(raw[0], raw[1], raw[2], w, in[edge_next & 3]);
        }
        const float* rows[3];
        for (int i = 0; i < 3; i++) {
          const int at = 2 * mid_next - 1 + i;
          rows[i] = at < 0 ? none[0] : in[at & 3];
        }
        float* to = mid[mid_next & 3];
        convolve(rows, 4, w / 2, args.conv1,
                 [&](int p, int n, vf v) { store(to + p * c1 + n, gelu<true>(v)); });
      }
      const float* rows[3];
      for (int i = 0; i < 3; i++) {
        const int at = 2 * y - 1 + i;
        rows[i] = at < 0 ? none[1] : mid[at & 3];
      }
      float* to = out + (int64_t)(y - y0) * (w / 4) * c;
      convolve(rows, c1, w / 4, args.conv2,
               [&](int p, int n, vf v) { store(to + (int64_t)p * c + n, v); });
      normalise(to, c, w / 4, c, to, c);
      for (int p = 0; p < w / 4; p++)
        for (int k = 0; k < c; k += W) {
          float* at = to + (int64_t)p * c + k;
          store(at, load(at) * load(args.norm_weight + k) + load(args.norm_bias + k));
        }
    }
    describe(out, w / 4, c, args.statistics + (slice * bands + band) * (w / 32) * 2 * c);
  }
}

}  // namespace CRN_ISA
}  // namespace crn
