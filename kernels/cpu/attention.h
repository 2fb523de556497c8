// Window attention of one head in one window at three temperatures.
//
// Queries lie across lanes: the sums over keys are then sums of vectors. One exponential serves all
// temperatures, because softmax(2z) is softmax(z) squared and normalised again.
#pragma once
#include <type_traits>

#include "activation.h"

namespace crn {
namespace CRN_ISA {

// Key and query in different regions of a shifted image: windows of the last row, column, both.
struct Masks {
  float of[3][kTokens * kTokens];
};

// At compile time: code that runs when the library is loaded would need these instructions.
constexpr Masks make_masks() {
  Masks masks{};
  for (int kind = 0; kind < 3; kind++)
    for (int key = 0; key < kTokens; key++)
      for (int query = 0; query < kTokens; query++) {
        const bool rows = (key / 8 >= 4) != (query / 8 >= 4);
        const bool columns = (key % 8 >= 4) != (query % 8 >= 4);
        const bool apart = (kind != 1 && rows) || (kind != 0 && columns);
        masks.of[kind][key * kTokens + query] = apart ? -1e30f : 0.f;
      }
  return masks;
}
static constexpr Masks kMasks = make_masks();

// qkv: rows of 3c floats; q at qkv, k c floats and v 2c floats behind it. out: rows of c floats.
// Unless exact, products are of bfloat16 where the processor multiplies pairs of them: neighbouring
// channels of query and key, and neighbouring keys of weights and values.
template <bool Exact, int D>
CRN_NOINLINE void attend(const float* qkv, int c, float sharpness, const float* position,
                         const float* mask, const float* gates, float* out) {
  constexpr bool Paired = PAIRS && !Exact;
  constexpr int BLOCK = 2 * W;  // queries at a time
  constexpr int PER = Paired ? 2 : 1, STEPS = D / PER, PAIRED_KEYS = kTokens / PER, PARTS = D / W;
  using Unit = std::conditional_t<Paired, vi, vf>;
  using Lane = std::conditional_t<Paired, int32_t, float>;
  const int64_t ld = 3 * (int64_t)c;
  Unit q[STEPS][kTokens / W], v[PAIRED_KEYS][PARTS];
  alignas(64) Lane k[kTokens][STEPS], weights[PAIRED_KEYS][BLOCK];
  alignas(64) float s[kTokens][BLOCK];
  for (int t = 0; t < kTokens; t += PER)
    for (int p = 0; p < PARTS; p++) {
      const float* at = qkv + t * ld + 2 * c + p * W;
      if constexpr (Paired) v[t / 2][p] = pair(load(at), load(at + ld));
      else v[t][p] = load(at);
    }
  for (int t = 0; t < kTokens; t += W)
    for (int d = 0; d < D; d += W) {
      vf rows[W];
      CRN_UNROLL for (int i = 0; i < W; i++) rows[i] = load(qkv + (t + i) * ld + d) * sharpness;
      transpose(rows);
      CRN_UNROLL for (int i = 0; i < W; i += PER) {
        if constexpr (Paired) q[(d + i) / 2][t / W] = pair(rows[i], rows[i + 1]);
        else q[d + i][t / W] = rows[i];
      }
    }
  for (int t = 0; t < kTokens; t++)
    for (int d = 0; d < D; d += W) {
      const vf row = load(qkv + t * ld + c + d);
      if constexpr (Paired) store_pairs(&k[t][d / 2], row);
      else store((float*)&k[t][d], row);
    }
  for (int first = 0; first < kTokens; first += BLOCK) {
    vf most0 = splat(-1e30f), most1 = most0;
    for (int j = 0; j < kTokens; j += KEYS) {
      vf a0[KEYS], a1[KEYS];
      CRN_UNROLL for (int i = 0; i < KEYS; i++) {
        const float* at = position + (j + i) * kTokens + first;
        a0[i] = load(at);
        a1[i] = load(at + W);
      }
      if (mask)
        CRN_UNROLL for (int i = 0; i < KEYS; i++) {
          const float* at = mask + (j + i) * kTokens + first;
          a0[i] += load(at);
          a1[i] += load(at + W);
        }
      CRN_NO_UNROLL for (int d = 0; d < STEPS; d++) {
        const Unit q0 = q[d][first / W], q1 = q[d][first / W + 1];
        CRN_UNROLL for (int i = 0; i < KEYS; i++) {
          const Lane x = k[j + i][d];
          a0[i] = multiply_add(a0[i], q0, x);
          a1[i] = multiply_add(a1[i], q1, x);
        }
      }
      CRN_UNROLL for (int i = 0; i < KEYS; i++) {
        most0 = max(most0, a0[i]);
        most1 = max(most1, a1[i]);
        store(&s[j + i][0], a0[i]);
        store(&s[j + i][W], a1[i]);
      }
    }
    for (int u = 0; u < BLOCK; u += W) {
      const vf most = u ? most1 : most0;
      vf sum1{}, sum2{}, sum4{};
      _Pragma("GCC unroll 4") for (int j = 0; j < kTokens; j++) {
        const vf e = exp2<Exact>(load(&s[j][u]) - most), e2 = e * e;
        store(&s[j][u], e);
        sum1 += e;
        sum2 += e2;
        sum4 += e2 * e2;
      }
      const vf g1 = gates[0] / sum1, g2 = gates[1] / sum2, g4 = gates[2] / sum4;
      const auto weight = [&](int j) {
        const vf e = load(&s[j][u]);
        return e * (g1 + e * (g2 + e * e * g4));
      };
      _Pragma("GCC unroll 4") for (int j = 0; j < PAIRED_KEYS; j++) {
        if constexpr (Paired) *(vi_any*)&weights[j][u] = pair(weight(2 * j), weight(2 * j + 1));
        else store((float*)&weights[j][u], weight(j));
      }
    }
    for (int i0 = 0; i0 < BLOCK; i0 += ROWS) {
      vf a[ROWS][PARTS];
      CRN_UNROLL for (int i = 0; i < ROWS; i++)
        CRN_UNROLL for (int p = 0; p < PARTS; p++) a[i][p] = vf{};
      CRN_NO_UNROLL for (int j = 0; j < PAIRED_KEYS; j++)
        CRN_UNROLL for (int i = 0; i < ROWS; i++)
          CRN_UNROLL for (int p = 0; p < PARTS; p++)
            a[i][p] = multiply_add(a[i][p], v[j][p], weights[j][i0 + i]);
      CRN_UNROLL for (int i = 0; i < ROWS; i++)
        CRN_UNROLL for (int p = 0; p < PARTS; p++)
          store(out + (int64_t)(first + i0 + i) * c + p * W, a[i][p]);
    }
  }
}

}  // namespace CRN_ISA
}  // namespace crn
