/* Score raw CT slices on a processor, with the CPU engine's library and a checkpoint alone.
 * Research use only.
 *
 *   score_cpu CHECKPOINT RAW int16|float32 [fp32|int8] [THREADS]
 *
 * CHECKPOINT is a bundle's clinreadnet.safetensors. RAW holds n slices of 512 x 512 Hounsfield units,
 * in this processor's order of bytes, without headers. Prints "index score novelty" lines, the score
 * from 0 (bad) to 4 (excellent), and "novel" behind a slice that is unlike the training data. Exit
 * status: 0 fine, 1 the engine failed, 2 bad usage or bad input.
 *
 *   cc -O2 score_cpu.c -I kernels/cpu/include -L FOLDER -lclinreadnet -o score_cpu
 */
#include <clinreadnet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = CRN_SIZE * CRN_SIZE };

/* The bytes of a file, or NULL. */
static void* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  char* bytes = NULL;
  long end = -1;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) end = ftell(file);
  if (end > 0) bytes = malloc((size_t)end);
  if (bytes != NULL && (fseek(file, 0, SEEK_SET) != 0 ||
                        fread(bytes, 1, (size_t)end, file) != (size_t)end)) {
    free(bytes);
    bytes = NULL;
  }
  if (file != NULL) fclose(file);
  *size = bytes == NULL ? 0 : (size_t)end;
  return bytes;
}

int main(int argc, char** argv) {
  char error[CRN_ERROR_SIZE];
  crn_options options;
  crn_info info;
  crn_engine engine;
  crn_status status;
  size_t checkpoint_size, raw_size, n, width;
  void *checkpoint, *raw;
  float* slice = malloc(PIXELS * sizeof *slice);

  if (crn_abi_version() != CRN_ABI_VERSION) {
    fprintf(stderr, "the library has ABI version %u, this program was compiled for %d\n",
            (unsigned)crn_abi_version(), CRN_ABI_VERSION);
    return 1;
  }
  if (argc < 4 || argc > 6 || (strcmp(argv[3], "int16") && strcmp(argv[3], "float32")) ||
      (argc > 4 && strcmp(argv[4], "fp32") && strcmp(argv[4], "int8"))) {
    fprintf(stderr, "usage: score_cpu CHECKPOINT RAW int16|float32 [fp32|int8] [THREADS]\n");
    return 2;
  }
  width = strcmp(argv[3], "int16") == 0 ? 2 : 4;
  crn_defaults(&options);
  if (argc > 4 && strcmp(argv[4], "int8") == 0) options.precision = CRN_INT8;
  if (argc > 5) options.threads = atoi(argv[5]);
  checkpoint = read_file(argv[1], &checkpoint_size);
  raw = read_file(argv[2], &raw_size);
  if (checkpoint == NULL || raw == NULL || slice == NULL) {
    fprintf(stderr, "%s: cannot be read\n", checkpoint == NULL ? argv[1] : argv[2]);
    return 2;
  }
  if (raw_size % (PIXELS * width) != 0) {
    fprintf(stderr, "%s: %zu bytes are not slices of 512 x 512 %s\n", argv[2], raw_size, argv[3]);
    return 2;
  }
  status = crn_open(checkpoint, checkpoint_size, &options, &engine, error, sizeof error);
  free(checkpoint);
  info.size = sizeof info;
  if (status == CRN_OK) status = crn_describe(engine, &info, error, sizeof error);
  if (status != CRN_OK) {
    fprintf(stderr, "%s: %s\n", argv[1], error);
    return status == CRN_BAD_CHECKPOINT || status == CRN_BAD_ARGUMENT ? 2 : 1;
  }
  n = raw_size / (PIXELS * width);
  for (size_t i = 0; i < n; i++) {
    float score, novelty;
    if (width == 2) {
      const int16_t* from = (const int16_t*)raw + i * PIXELS;
      for (size_t p = 0; p < PIXELS; p++) slice[p] = from[p];
    } else {
      memcpy(slice, (const float*)raw + i * PIXELS, PIXELS * sizeof *slice);
    }
    status = crn_score(engine, slice, 1, &score, NULL, NULL, &novelty, error, sizeof error);
    if (status != CRN_OK) {
      fprintf(stderr, "%s: slice %zu: %s\n", argv[2], i, error);
      crn_close(engine);
      return status == CRN_BAD_ARGUMENT ? 2 : 1;
    }
    printf("%zu %.4f %.4f%s\n", i, score, novelty,
           novelty > info.novelty_threshold ? " novel" : "");
  }
  crn_close(engine);
  free(raw);
  free(slice);
  return 0;
}
