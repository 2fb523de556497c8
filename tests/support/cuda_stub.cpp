// A CUDA driver that launches nothing: it says what it was asked for, and fills the last pointer
// before the hidden ones with 1, 2, 3... for as many floats as were allocated.

#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace {
std::map<CUdeviceptr, size_t> allocated;

// The bytes from an address to the end of its allocation.
size_t bytes_at(CUdeviceptr pointer) {
    auto next = allocated.upper_bound(pointer);
    if (next == allocated.begin()) std::abort();
    --next;
    const size_t offset = pointer - next->first;
    if (offset >= next->second) std::abort();
    return next->second - offset;
}
}  // namespace

extern "C" {
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, const char** text) {
    *text = "refused by the stub";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult, const char** text) {
    *text = "REFUSED_BY_THE_STUB";
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    std::snprintf(name, size, "Stub");
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 0;
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* size, CUdevice) {
    *size = size_t(1) << 30;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int) {
    *device = 0;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    *context = nullptr;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    std::printf("leaked %zu\n", allocated.size());
    return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule* module, const void* data) {
    if (std::memcmp(data, "\177ELF", 4) != 0) return CUDA_ERROR_INVALID_IMAGE;
    *module = nullptr;
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction*, CUmodule, const char* entry) {
    std::printf("entry %s\n", entry);
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int value) {
    std::printf("opted in to %d\n", value);
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* pointer, size_t size) {
    *pointer = reinterpret_cast<CUdeviceptr>(std::malloc(size));
    allocated[*pointer] = size;
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr pointer) {
    allocated.erase(pointer);
    std::free(reinterpret_cast<void*>(pointer));
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD(CUdeviceptr target, const void* source, size_t size) {
    std::memcpy(reinterpret_cast<void*>(target), source, size);
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8(CUdeviceptr target, unsigned char value, size_t size) {
    if (size > bytes_at(target)) return CUDA_ERROR_INVALID_VALUE;
    std::memset(reinterpret_cast<void*>(target), value, size);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoH(void* target, CUdeviceptr source, size_t size) {
    std::memcpy(target, reinterpret_cast<const void*>(source), size);
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                        unsigned threads_y, unsigned threads_z, unsigned shared, CUstream,
                        void** parameters, void**) {
    std::printf("grid %u %u %u\nblock %u %u %u\nshared %u\n", x, y, z, threads_x, threads_y,
                threads_z, shared);
    auto size = [&](int i) { return *static_cast<int*>(parameters[i]); };
    auto pointer = [&](int i) { return *static_cast<CUdeviceptr*>(parameters[i]); };
    for (int i : {0, 1, 2}) {
        auto* values = reinterpret_cast<float*>(pointer(i));
        std::printf("tensor %d: %zu bytes, first %g\n", i, bytes_at(pointer(i)), values[0]);
    }
    std::printf("sizes %d %d\nhidden %llu %llu\n", size(3), size(4), pointer(6), pointer(7));
    auto* out = reinterpret_cast<float*>(pointer(5));
    for (size_t i = 0; i < bytes_at(pointer(5)) / sizeof(float); ++i) out[i] = float(i + 1);
    return CUDA_SUCCESS;
}
}
