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
// Unless exact, products are of bfloat16 or of 16-bit integers where the processor multiplies pairs of
// them: neighbouring channels of query and key, and neighbouring keys of weights and values. Integers
// have a scale for the queries, the keys and the values of a head in a window, found here.

// Levels of the integers: sums of 32 products of queries and keys, and of weights, whose sum is 1, and
// values, lie in 32 bits.
constexpr float QUERY_LEVELS = 8191, VALUE_LEVELS = 32767;

// The largest magnitude of 64 rows of D floats.
template <int D>
CRN_INLINE float magnitude(const float* rows, int64_t ld) {
  vf most{};
  for (int t = 0; t < kTokens; t++)
    for (int d = 0; d < D; d += W) {
      const vf x = load(rows + t * ld + d);
      most = max(most, max(x, -x));
    }
  return largest(most) + 1e-20f;
}

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
  float query_scale = sharpness, key_scale = 1, value_scale = 1, score_step = 1, value_step = 1;
  if constexpr (Paired) {
    const float query = magnitude<D>(qkv, ld), key = magnitude<D>(qkv + c, ld);
    const float value = magnitude<D>(qkv + 2 * c, ld);
    query_scale = QUERY_LEVELS / query;
    key_scale = QUERY_LEVELS / key;
    score_step = sharpness * (query / QUERY_LEVELS) * (key / QUERY_LEVELS);
    value_scale = VALUE_LEVELS / value;
    value_step = value / (VALUE_LEVELS * VALUE_LEVELS);
  }
  for (int t = 0; t < kTokens; t += PER)
    for (int p = 0; p < PARTS; p++) {
      const float* at = qkv + t * ld + 2 * c + p * W;
      if constexpr (Paired) v[t / 2][p] = pair(load(at) * value_scale, load(at + ld) * value_scale);
      else v[t][p] = load(at);
    }
  for (int t = 0; t < kTokens; t += W)
    for (int d = 0; d < D; d += W) {
      vf rows[W];
      CRN_UNROLL for (int i = 0; i < W; i++) rows[i] = load(qkv + (t + i) * ld + d) * query_scale;
      transpose(rows);
      CRN_UNROLL for (int i = 0; i < W; i += PER) {
        if constexpr (Paired) q[(d + i) / 2][t / W] = pair(rows[i], rows[i + 1]);
        else q[d + i][t / W] = rows[i];
      }
    }
  for (int t = 0; t < kTokens; t++)
    for (int d = 0; d < D; d += W) {
      const vf row = load(qkv + t * ld + c + d);
      if constexpr (Paired) store_pairs(&k[t][d / 2], row * key_scale);
      else store((float*)&k[t][d], row);
    }
  for (int first = 0; first < kTokens; first += BLOCK) {
    vf most0 = splat(-1e30f), most1 = most0;
    for (int j = 0; j < kTokens; j += KEYS) {
      vf b0[KEYS], b1[KEYS];
      CRN_UNROLL for (int i = 0; i < KEYS; i++) {
        const float* at = position + (j + i) * kTokens + first;
        b0[i] = load(at);
        b1[i] = load(at + W);
      }
      if (mask)
        CRN_UNROLL for (int i = 0; i < KEYS; i++) {
          const float* at = mask + (j + i) * kTokens + first;
          b0[i] += load(at);
          b1[i] += load(at + W);
        }
      Unit a0[KEYS], a1[KEYS];
      CRN_UNROLL for (int i = 0; i < KEYS; i++) {
        if constexpr (Paired) a0[i] = a1[i] = Unit{};
        else a0[i] = b0[i], a1[i] = b1[i];
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
        if constexpr (Paired) {
          b0[i] += __builtin_convertvector(a0[i], vf) * score_step;
          b1[i] += __builtin_convertvector(a1[i], vf) * score_step;
        } else {
          b0[i] = a0[i], b1[i] = a1[i];
        }
        most0 = max(most0, b0[i]);
        most1 = max(most1, b1[i]);
        store(&s[j + i][0], b0[i]);
        store(&s[j + i][W], b1[i]);
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
      constexpr float levels = Paired ? VALUE_LEVELS : 1;
      const vf g1 = levels * gates[0] / sum1, g2 = levels * gates[1] / sum2,
               g4 = levels * gates[2] / sum4;
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
      Unit a[ROWS][PARTS];
      CRN_UNROLL for (int i = 0; i < ROWS; i++)
        CRN_UNROLL for (int p = 0; p < PARTS; p++) a[i][p] = Unit{};
      CRN_NO_UNROLL for (int j = 0; j < PAIRED_KEYS; j++)
        CRN_UNROLL for (int i = 0; i < ROWS; i++)
          CRN_UNROLL for (int p = 0; p < PARTS; p++)
            a[i][p] = multiply_add(a[i][p], v[j][p], weights[j][i0 + i]);
      CRN_UNROLL for (int i = 0; i < ROWS; i++)
        CRN_UNROLL for (int p = 0; p < PARTS; p++) {
          float* to = out + (int64_t)(first + i0 + i) * c + p * W;
          if constexpr (Paired) store(to, __builtin_convertvector(a[i][p], vf) * value_step);
          else store(to, a[i][p]);
        }
    }
  }
}

}  // namespace CRN_ISA
}  // namespace crn
