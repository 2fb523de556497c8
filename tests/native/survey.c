/* Look at the slices of standard input: survey INSTRUCTIONS TYPE writes a crn_survey_result for each. */
#include <stdio.h>
#include <stdlib.h>

#include "clinreadnet_ops.h"

int main(int argc, char** argv) {
  static char hu[CRN_SIZE * CRN_SIZE * 4];
  char error[CRN_ERROR_SIZE];
  const unsigned type = argc == 3 ? (unsigned)atoi(argv[2]) : CRN_FLOAT;
  const size_t size = (size_t)CRN_SIZE * CRN_SIZE * (type == CRN_FLOAT ? 4 : 2);
  while (fread(hu, 1, size, stdin) == size) {
    crn_survey_result result = {sizeof result};
    if (crn_survey(hu, type, argv[1], 64, 1, &result, error, sizeof error)) {
      fprintf(stderr, "%s\n", error);
      return 1;
    }
    fwrite(&result, sizeof result, 1, stdout);
  }
  return 0;
}
