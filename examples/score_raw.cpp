// Score raw CT slices with a TensorRT engine of a ClinReadNet bundle. Research use only.
//
//   score_raw ENGINE RAW int16|float32 [THRESHOLD]
//
// RAW holds n slices of 512 x 512 Hounsfield units, little-endian, without headers.
// Prints "index score novelty" lines, the score from 0 (bad) to 4 (excellent). THRESHOLD is the
// manifest's model.novelty_threshold: a slice above it is marked "novel", unlike the training data.
// An engine made before novelty prints "index score". Exit status: 0 fine, 1 TensorRT or CUDA
// failed, 2 bad usage or bad input.
//
// An engine is code: give this program only files with the SHA-256 of the manifest (`clinreadnet
// verify` checks it). Needs the headers and library of the release that built the engine:
//
//   g++ -std=c++17 -O2 score_raw.cpp -I$TENSORRT/include -I$CUDA/include
//       -L$TENSORRT/lib -L$CUDA/lib64 -lnvinfer -lcudart -o score_raw
//
// with -ltensorrt_rtx instead of -lnvinfer for TensorRT-RTX. Windows: docs/serving.md.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int64_t kSide = 512;
constexpr int64_t kPixels = kSide * kSide;

struct Input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << message << '\n';
    }
};

void check(cudaError_t status, char const* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

void check(bool done, std::string const& what) {
    if (!done) throw std::runtime_error("TensorRT: " + what + " failed");
}

struct DeviceFloats {
    explicit DeviceFloats(int64_t count) {
        check(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(float)), "cudaMalloc");
    }
    ~DeviceFloats() { cudaFree(data); }
    DeviceFloats(DeviceFloats const&) = delete;
    DeviceFloats& operator=(DeviceFloats const&) = delete;
    void* data = nullptr;
};

struct Stream {
    Stream() { check(cudaStreamCreate(&handle), "cudaStreamCreate"); }
    ~Stream() { cudaStreamDestroy(handle); }
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;
    cudaStream_t handle = nullptr;
};

std::vector<char> readFile(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file || bytes.empty()) throw Input(path + ": missing, empty or not readable");
    return bytes;
}

// The slices as float32, n * 512 * 512.
std::vector<float> readSlices(std::string const& path, std::string const& type) {
    if (type != "int16" && type != "float32") throw Input(type + ": give int16 or float32");
    std::vector<char> const bytes = readFile(path);
    size_t const width = type == "int16" ? sizeof(int16_t) : sizeof(float);
    if (bytes.size() % (kPixels * width) != 0)
        throw Input(path + ": " + std::to_string(bytes.size()) + " bytes are not whole slices of " +
                    "512 x 512 " + type);
    std::vector<float> hu(bytes.size() / width);
    if (type == "float32") {
        std::memcpy(hu.data(), bytes.data(), bytes.size());
    } else {
        std::vector<int16_t> stored(hu.size());
        std::memcpy(stored.data(), bytes.data(), bytes.size());
        std::copy(stored.begin(), stored.end(), hu.begin());
    }
    for (size_t i = 0; i < hu.size(); ++i)
        if (!std::isfinite(hu[i]))
            throw Input(path + ": slice " + std::to_string(i / kPixels) + " holds NaN or infinity");
    return hu;
}

// Values in one slice of a tensor: the product of all its dimensions but the batch.
int64_t valuesPerSlice(nvinfer1::ICudaEngine const& engine, char const* name) {
    nvinfer1::Dims const shape = engine.getTensorShape(name);
    int64_t count = 1;
    for (int32_t i = 1; i < shape.nbDims; ++i) count *= shape.d[i];
    return count;
}

int64_t batch(nvinfer1::ICudaEngine const& engine, nvinfer1::OptProfileSelector which) {
    return engine.getProfileShape("hu", 0, which).d[0];
}

void score(std::string const& enginePath, std::vector<float> const& hu, float threshold) {
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
    check(runtime != nullptr, "createInferRuntime");
    std::vector<char> const blob = readFile(enginePath);
    std::unique_ptr<nvinfer1::ICudaEngine> engine{
        runtime->deserializeCudaEngine(blob.data(), blob.size())};
    if (!engine)
        throw Input(enginePath + ": not an engine for this GPU and this release of TensorRT");

    // Every tensor needs an address. All of ClinReadNet's are float32, whatever the precision.
    using nvinfer1::OptProfileSelector;
    std::vector<char const*> names;
    for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
        names.push_back(engine->getIOTensorName(i));
        if (engine->getTensorDataType(names.back()) != nvinfer1::DataType::kFLOAT)
            throw Input(enginePath + ": " + names.back() + " is not float32");
    }
    for (char const* wanted : {"hu", "score"})
        if (std::none_of(names.begin(), names.end(),
                         [&](char const* name) { return std::strcmp(name, wanted) == 0; }))
            throw Input(enginePath + ": not a ClinReadNet engine, it has no " + wanted);
    int64_t const least = batch(*engine, OptProfileSelector::kMIN);
    int64_t const most = batch(*engine, OptProfileSelector::kMAX);
    int64_t const best = batch(*engine, OptProfileSelector::kOPT);

    std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
    check(context != nullptr, "createExecutionContext");
    std::vector<std::unique_ptr<DeviceFloats>> buffers;
    DeviceFloats* input = nullptr;
    DeviceFloats* output = nullptr;
    DeviceFloats* novelty = nullptr;  // stays so in an engine made before it
    for (char const* name : names) {
        buffers.push_back(std::make_unique<DeviceFloats>(most * valuesPerSlice(*engine, name)));
        check(context->setTensorAddress(name, buffers.back()->data), "setTensorAddress");
        if (std::strcmp(name, "hu") == 0) input = buffers.back().get();
        if (std::strcmp(name, "score") == 0) output = buffers.back().get();
        if (std::strcmp(name, "novelty") == 0) novelty = buffers.back().get();
    }
    if (!novelty && std::isfinite(threshold))
        throw Input(enginePath + ": made before novelty, leave THRESHOLD out");

    Stream stream;
    int64_t const total = static_cast<int64_t>(hu.size()) / kPixels;
    std::vector<float> scores(static_cast<size_t>(most)), distances(scores);
    for (int64_t first = 0; first < total; first += best) {
        int64_t const count = std::min(best, total - first);
        // A profile may ask for more slices than are left: the last one fills it up.
        int64_t const run = std::max(count, least);
        for (int64_t i = 0; i < run; ++i)
            check(cudaMemcpyAsync(static_cast<float*>(input->data) + i * kPixels,
                                  hu.data() + (first + std::min(i, count - 1)) * kPixels,
                                  kPixels * sizeof(float), cudaMemcpyHostToDevice, stream.handle),
                  "copy to the GPU");
        nvinfer1::Dims const shape{4, {run, 1, kSide, kSide}};
        check(context->setInputShape("hu", shape), "setInputShape");
        check(context->enqueueV3(stream.handle), "enqueueV3");
        check(cudaMemcpyAsync(scores.data(), output->data, count * sizeof(float),
                              cudaMemcpyDeviceToHost, stream.handle),
              "copy from the GPU");
        if (novelty)
            check(cudaMemcpyAsync(distances.data(), novelty->data, count * sizeof(float),
                                  cudaMemcpyDeviceToHost, stream.handle),
                  "copy from the GPU");
        check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
        for (int64_t i = 0; i < count; ++i) {
            std::printf("%lld %.4f", static_cast<long long>(first + i), scores[i]);
            if (novelty) std::printf(" %.4f%s", distances[i], distances[i] > threshold ? " novel" : "");
            std::printf("\n");
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4 && count != 5) {
        std::cerr << "usage: score_raw ENGINE RAW int16|float32 [THRESHOLD]\n";
        return 2;
    }
    try {
        float threshold = std::numeric_limits<float>::infinity();
        if (count == 5) {
            char* end = nullptr;
            threshold = std::strtof(arguments[4], &end);
            if (*end != '\0' || !(threshold > 0) || !std::isfinite(threshold))
                throw Input(std::string(arguments[4]) + ": THRESHOLD must be a positive number");
        }
        score(arguments[1], readSlices(arguments[2], arguments[3]), threshold);
    } catch (Input const& error) {
        std::cerr << "score_raw: " << error.what() << '\n';
        return 2;
    } catch (std::exception const& error) {
        std::cerr << "score_raw: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
