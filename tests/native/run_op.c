/* Runs an op on tensors from standard input, for processors that are emulated. */
#include <stdio.h>
#include <stdlib.h>

#include "clinreadnet_ops.h"

static void get(void* to, size_t size, size_t n) {
  if (fread(to, size, n, stdin) != n) exit(3);
}

int main(int argc, char** argv) {
  int64_t count, tensors, tasks = 0, sizes[16], lengths[32];
  float* data[32];
  char error[CRN_ERROR_SIZE];
  if (argc != 5) return 2;
  get(&count, 8, 1);
  get(sizes, 8, (size_t)count);
  get(&tensors, 8, 1);
  get(lengths, 8, (size_t)tensors);
  for (int64_t i = 0; i < tensors; i++) {
    data[i] = malloc(4 * (size_t)lengths[i] + 4);
    get(data[i], 4, (size_t)lengths[i]);
  }
  int failed = crn_run_op(argv[1], argv[2], sizes, data, atoll(argv[3]), atoll(argv[4]), &tasks, error,
                          sizeof error);
  if (failed) {
    fprintf(stderr, "%s\n", error);
  } else {
    fwrite(&tasks, 8, 1, stdout);
    for (int64_t i = 0; i < tensors; i++) fwrite(data[i], 4, (size_t)lengths[i], stdout);
  }
  for (int64_t i = 0; i < tensors; i++) free(data[i]);
  return failed != 0;
}
