/* Run a single op of the network, for tests and benchmarks. Not part of the stable interface. */
#ifndef CLINREADNET_OPS_H
#define CLINREADNET_OPS_H

#include "clinreadnet.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Run tasks first ... last - 1 of an op, or all of them where last is negative, on this thread, with
 * memory for intermediate values that holds NaN before each call.
 *
 * op, sizes, tensors (float32, contiguous):
 *   "block"  {8 bits?, slices, h, w, c, heads, shift, hidden, halves: 1 attention, 2 MLP, 3 both};
 *            {x [slices, h, w, c] in place, norm weight, bias, qkv weight [3c, c], bias, projection
 *            weight, bias, bias table [225, heads], log inverse temperature, gate logits [heads, 3],
 *            norm weight, bias, fc1 weight [hidden, c], bias, fc2 weight, bias}
 *   "merge"  {8 bits?, slices, h, w, c}; {x, out [slices, h / 2, w / 2, 2c], norm weight [4c], bias,
 *            reduction weight [2c, 4c]}
 *   "stem"   {slices, h, w, c}; {hu [slices, h, w], tokens out, statistics out, conv1 weight, bias,
 *            conv2 weight, bias, norm weight, bias}
 *   "head"   {tokens, c}; {x, normalised out, votes out [tokens, 32], norm weight, bias, weight
 *            [32, c], bias}
 *   "peak"   {8 bits?, rounds}; {products out [1]}
 * tasks: receives the number of tasks of the whole op; may be NULL.
 */
CRN_API crn_status crn_run_op(const char* op, const char* instructions, const int64_t* sizes,
                              float* const* tensors, int64_t first, int64_t last, int64_t* tasks,
                              char* error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
