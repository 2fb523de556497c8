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

typedef enum { CRN_FLOAT = 0, CRN_INT16 = 1 } crn_pixel_type;

/* What a slice shows. Anatomy is that of the largest body, on cells of 4 x 4 pixels; shares are
 * fractions of its area. clinreadnet/data/region.py says what each measure means. */
typedef struct {
  uint32_t size;             /* sizeof(crn_survey_result) of the caller */
  uint32_t finite;           /* 0: a pixel is NaN or infinite, and nothing else is set */
  float low, high;           /* least and largest HU */
  uint32_t levels;           /* different whole HU, counted up to `many` */
  uint32_t soft, light, dense; /* pixels of -300 ... 400, up to -30, from 700 HU */
  uint32_t area, border;     /* cells of the body, and of the frame's border that it covers; area 0:
                                no body, and nothing below is set */
  double second, width, lung, both_lungs, fat, bone, side_bone, spine, dense_bone, enclosed;
} crn_survey_result;

/* Look at a slice of 512 x 512 pixels of a crn_pixel_type, on this thread; at its anatomy too unless
 * `anatomy` is 0. */
CRN_API crn_status crn_survey(const void* hu, uint32_t type, const char* instructions, uint32_t many,
                              uint32_t anatomy, crn_survey_result* result, char* error,
                              size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
