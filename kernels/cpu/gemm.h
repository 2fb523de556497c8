// The matrix product that all ops share, in float32 and in 8 bits.
//
// A tile of ROWS x COLUMNS sums lies in registers for all of k; weights are packed in panels of
// COLUMNS. What follows a product (bias, GELU, residual) reads the tile from the first-level cache.
#pragma once
#include "vec.h"

namespace crn {
namespace CRN_ISA {

// Rows of a product: floats, or bytes of which row r stands for step[r] * byte + least[r].
struct Rows {
  const float* floats;
  const uint8_t* bytes;
  const float *step, *least;
  int64_t ld;
};

// Sums over SEGMENTS runs of k floats; row i of a run lies i * ld floats behind it.
template <int SEGMENTS>
CRN_NOINLINE void tile(const float* const* runs, int64_t ld, int k, const float* w, float* out) {
  vf a[ROWS][VECTORS];
  CRN_UNROLL for (int i = 0; i < ROWS; i++)
    CRN_UNROLL for (int j = 0; j < VECTORS; j++) a[i][j] = vf{};
  for (int s = 0; s < SEGMENTS; s++) {
    const float *p = runs[s], *end = p + k;
    CRN_NO_UNROLL for (; p < end; p++, w += COLUMNS) {
      vf v[VECTORS];
      CRN_UNROLL for (int j = 0; j < VECTORS; j++) v[j] = load(w + j * W);
      CRN_UNROLL for (int i = 0; i < ROWS; i++) {
        const vf x = splat(p[i * ld]);
        CRN_UNROLL for (int j = 0; j < VECTORS; j++) a[i][j] += x * v[j];
      }
    }
  }
  CRN_UNROLL for (int i = 0; i < ROWS; i++)
    CRN_UNROLL for (int j = 0; j < VECTORS; j++) store(out + i * COLUMNS + j * W, a[i][j]);
}

CRN_NOINLINE void tile(const uint8_t* p, int64_t ld, int k, const int8_t* w, int32_t* out) {
  vi a[ROWS][VECTORS];
  CRN_UNROLL for (int i = 0; i < ROWS; i++)
    CRN_UNROLL for (int j = 0; j < VECTORS; j++) a[i][j] = vi{};
  const uint8_t* end = p + k;
  CRN_NO_UNROLL for (; p < end; p += 4, w += 4 * COLUMNS) {
    vi v[VECTORS];
    CRN_UNROLL for (int j = 0; j < VECTORS; j++) v[j] = *(const vi_any*)(w + 4 * j * W);
    CRN_UNROLL for (int i = 0; i < ROWS; i++) {
      int32_t four;
      __builtin_memcpy(&four, p + i * ld, 4);
      const vi x = vi{} + four;
      CRN_UNROLL for (int j = 0; j < VECTORS; j++) a[i][j] = dot4(a[i][j], x, v[j]);
    }
  }
  CRN_UNROLL for (int i = 0; i < ROWS; i++)
    CRN_UNROLL for (int j = 0; j < VECTORS; j++) *(vi_any*)(out + i * COLUMNS + j * W) = a[i][j];
}

// x W^T + b of m rows, a multiple of ROWS: then(row, column, W values), once for each.
template <bool Bytes, class Then>
CRN_INLINE void gemm(const Rows& x, int m, const Linear& layer, Then then) {
  for (int n = 0; n < layer.n; n += COLUMNS) {
    const int vectors = layer.n - n < COLUMNS ? (layer.n - n + W - 1) / W : VECTORS;
    for (int r = 0; r < m; r += ROWS) {
      alignas(64) float sums[ROWS * COLUMNS];
      if constexpr (Bytes) {
        tile(x.bytes + r * x.ld, x.ld, layer.k, (const int8_t*)layer.weights + (int64_t)n * layer.k,
             (int32_t*)sums);
      } else {
        const float* run = x.floats + r * x.ld;
        tile<1>(&run, x.ld, layer.k, (const float*)layer.weights + (int64_t)n * layer.k, sums);
      }
      for (int j = 0; j < vectors; j++) {
        const int column = n + j * W;
        const vf bias = load(layer.bias + column);
        if constexpr (Bytes) {
          const vf scale = load(layer.scale + column), total = load(layer.totals + column);
          CRN_UNROLL for (int i = 0; i < ROWS; i++) {
            const vf found = __builtin_convertvector(
                *(const vi_any*)((int32_t*)sums + i * COLUMNS + j * W), vf);
            then(r + i, column,
                 found * (scale * x.step[r + i]) + (total * x.least[r + i] + bias));
          }
        } else {
          CRN_UNROLL for (int i = 0; i < ROWS; i++)
            then(r + i, column, load(sums + i * COLUMNS + j * W) + bias);
        }
      }
    }
  }
}

// Rows as a product takes them: as they are, or in bytes whose step and least value each row has of
// its own, found here.
template <bool Bytes>
CRN_INLINE Rows prepare(const float* x, int64_t ld, int m, int k, uint8_t* bytes, float* step,
                        float* least) {
  if constexpr (!Bytes) return {x, nullptr, nullptr, nullptr, ld};
  for (int r = 0; r < m; r++, x += ld) {
    vf low = load(x), high = low;
    for (int i = W; i < k; i += W) {
      const vf v = load(x + i);
      low = min(low, v);
      high = max(high, v);
    }
    const float least_here = smallest(low);
    const float range = largest(high) - least_here + 1e-20f;
    const vf inverse = splat((float)LEVELS / range);
    // Half a level is added before the fraction is cut off.
    const vf shift = splat(.5f) - splat(least_here) * inverse;
    uint8_t* to = bytes + (int64_t)r * k;
    for (int i = 0; i < k; i += W)
      store_bytes(to + i, __builtin_convertvector(load(x + i) * inverse + shift, vi));
    step[r] = range / (float)LEVELS;
    least[r] = least_here + (float)OFFSET * step[r];
  }
  return {nullptr, bytes, step, least, k};
}

}  // namespace CRN_ISA
}  // namespace crn
