// Failures inside the library: thrown, and turned into a status and a line of text at the C ABI.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <exception>

#include "include/clinreadnet.h"

namespace crn {

class Error : public std::exception {
 public:
  Error(crn_status status, const char* format, ...) __attribute__((format(printf, 3, 4)))
      : status(status) {
    va_list list;
    va_start(list, format);
    vsnprintf(text_, sizeof text_, format, list);
    va_end(list);
  }
  const char* what() const noexcept override { return text_; }
  const crn_status status;

 private:
  char text_[CRN_ERROR_SIZE];
};

}  // namespace crn
