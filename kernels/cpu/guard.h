// Shared by the C functions: conversion of errors to status and text, and choice of instructions.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>

#include "error.h"
#include "ops.h"

namespace crn {

inline void tell(const char* text, char* error, size_t size) {
  if (error == nullptr || size == 0) return;
  const size_t n = std::min(std::strlen(text), size - 1);
  std::memcpy(error, text, n);
  error[n] = '\0';
}

template <class Body>
crn_status guarded(char* error, size_t error_size, Body body) {
  tell("", error, error_size);
  try {
    body();
    return CRN_OK;
  } catch (const Error& found) {
    tell(found.what(), error, error_size);
    return found.status;
  } catch (const std::bad_alloc&) {
    tell("memory is full", error, error_size);
    return CRN_NO_MEMORY;
  } catch (const std::exception& found) {
    tell(found.what(), error, error_size);
    return CRN_INTERNAL;
  } catch (...) {
    tell("unknown failure", error, error_size);
    return CRN_INTERNAL;
  }
}

// The ops of an instruction set, or of the best one for NULL. Throws Error (CRN_UNSUPPORTED).
const Ops& find_ops(const char* name);

}  // namespace crn
