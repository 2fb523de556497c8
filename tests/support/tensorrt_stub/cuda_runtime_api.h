// A stub for tests: the CUDA runtime calls that examples/score_raw.cpp makes, on ordinary memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
typedef struct CUstream_st* cudaStream_t;

inline char const* cudaGetErrorString(cudaError_t) { return "out of memory"; }

inline cudaError_t cudaMalloc(void** pointer, size_t size) {
    *pointer = std::getenv("STUB_NO_MEMORY") ? nullptr : std::malloc(size);
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}

inline cudaError_t cudaFree(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, void const* from, size_t size, cudaMemcpyKind,
                                   cudaStream_t) {
    std::memcpy(to, from, size);
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
