/* ClinReadNet on the CPU: quality scores of CT slices from a checkpoint, without other libraries.
 *
 * Research use only: not a medical device.
 *
 * Every function except crn_close returns CRN_OK, or another status and a message in `error` (one
 * line, null-terminated). No C++ exception leaves the library. All functions may be called from any
 * thread.
 */
#ifndef CLINREADNET_H
#define CLINREADNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define CRN_API __declspec(dllexport)
#else
#define CRN_API __attribute__((visibility("default")))
#endif

/* Increased by each change that breaks programs compiled against an older header. */
#define CRN_ABI_VERSION 1

#define CRN_SIZE 512     /* rows and columns of a slice */
#define CRN_GRADES 21    /* fine grades 0, 0.2 ... 4 */
#define CRN_MAP_SIDE 16  /* rows and columns of a quality map */
#define CRN_ERROR_SIZE 512 /* bytes that hold every error text */

typedef enum {
  CRN_OK = 0,
  CRN_BAD_ARGUMENT = 1,   /* an argument, such as threads = 0, or a slice with NaN */
  CRN_BAD_CHECKPOINT = 2, /* the checkpoint is damaged, of another preset or of another version */
  CRN_UNSUPPORTED = 3,    /* this processor lacks the instructions that were asked for */
  CRN_NO_MEMORY = 4,      /* memory is full; nothing is lost, call again with less */
  CRN_CLOSED = 5,         /* the handle was closed, or was never opened */
  CRN_INTERNAL = 6        /* a defect of this library; please report it */
} crn_status;

typedef enum { CRN_FP32 = 0, CRN_INT8 = 1 } crn_precision;

/* Handle of a loaded checkpoint. It is a number, so that a closed handle is recognised; 0 is never a
 * valid handle. */
typedef uint64_t crn_engine;

/* Initialise with crn_defaults, then change. */
typedef struct {
  uint32_t size;              /* sizeof(crn_options) of the caller */
  uint32_t precision;         /* crn_precision; default CRN_FP32 */
  int32_t threads;            /* of one call, 1 ... processors; default all */
  const char* preset;         /* refuse a checkpoint of any other preset; NULL: any */
  const char* instructions;   /* "avx512", "avx2", "neon", "plain"; NULL: the best here */
} crn_options;

/* Properties of a checkpoint. */
typedef struct {
  uint32_t size;              /* sizeof(crn_info) of the caller */
  char preset[32];
  char instructions[16];      /* the instruction set that runs */
  uint64_t parameters;
  float novelty_threshold;    /* novelty above it is out of domain; infinite: nothing is judged */
  int32_t threads;
} crn_info;

/* ABI version of this library: compare it with CRN_ABI_VERSION before any other call. */
CRN_API uint32_t crn_abi_version(void);

/* Version of the release, such as "0.1.0". */
CRN_API const char* crn_version(void);

/* Instruction sets that this processor and this library both have, the best first, separated by
 * spaces. */
CRN_API const char* crn_instructions(void);

/* Whether a precision is faster than CRN_FP32 with an instruction set: 1 or 0. */
CRN_API int crn_is_fast(const char* instructions, uint32_t precision);

CRN_API void crn_defaults(crn_options* options);

/* Load a checkpoint from memory; the bytes are copied and may be freed afterwards.
 *
 * checkpoint: the bytes of a .safetensors file that `clinreadnet train` wrote, or the shipped one.
 * options: NULL for the defaults.
 * engine: receives the handle, 0 on failure.
 * error: receives the message of a failure; may be NULL.
 */
CRN_API crn_status crn_open(const void* checkpoint, size_t size, const crn_options* options,
                            crn_engine* engine, char* error, size_t error_size);

CRN_API crn_status crn_describe(crn_engine engine, crn_info* info, char* error, size_t error_size);

/* Score slices. Several threads may call this with the same engine at the same time. The result of a
 * slice is bit-identical for any number of threads, callers and slices.
 *
 * hu: [n][512][512] Hounsfield units, no NaN.
 * score: [n], 0 bad ... 4 excellent.
 * probs: [n][21], probability of each fine grade; may be NULL, as the next two.
 * quality_map: [n][16][16], score of each tile of 32 x 32 pixels.
 * novelty: [n], about 1 for slices like the training data, larger for others.
 */
CRN_API crn_status crn_score(crn_engine engine, const float* hu, size_t n, float* score,
                             float* probs, float* quality_map, float* novelty, char* error,
                             size_t error_size);

/* Free an engine after its running calls have ended. Closing twice does nothing. */
CRN_API void crn_close(crn_engine engine);

#ifdef __cplusplus
}
#endif
#endif
