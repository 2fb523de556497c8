// List the plugins of a TensorRT engine and run it once, with TensorRT alone. Research use only.
//
//   plugin_engine ENGINE
//
// An engine that `clinreadnet export --plugins` built holds the code of its kernels. This program
// registers no plugin and loads no plugin library: if the engine needed one, it would not
// deserialise. Prints each plugin layer, then "ran N slices". Exit status: 0 fine, 1 TensorRT or
// CUDA failed, 2 bad usage, a file that is not an engine for this GPU, or an engine without plugins.
//
// An engine is code: give this program only files with the SHA-256 of the manifest (`clinreadnet
// verify` checks it). Needs the headers and library of the release that built the engine:
//
//   g++ -std=c++17 -O2 plugin_engine.cpp -I$TENSORRT/include -I$CUDA/include
//       -L$TENSORRT/lib -L$CUDA/lib64 -lnvinfer -lcudart -o plugin_engine

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << message << '\n';
    }
};

void check(bool done, std::string const& what) {
    if (!done) throw std::runtime_error(what + " failed");
}

struct Device {
    explicit Device(int64_t bytes) {
        check(cudaMalloc(&data, static_cast<size_t>(bytes)) == cudaSuccess, "cudaMalloc");
    }
    ~Device() { cudaFree(data); }
    Device(Device const&) = delete;
    Device& operator=(Device const&) = delete;
    void* data = nullptr;
};

struct Stream {
    Stream() { check(cudaStreamCreate(&handle) == cudaSuccess, "cudaStreamCreate"); }
    ~Stream() { cudaStreamDestroy(handle); }
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;
    cudaStream_t handle = nullptr;
};

// The value of a JSON report's text field; empty if it has none.
std::string field(std::string const& report, std::string const& name) {
    size_t const key = report.find('"' + name + '"');
    if (key == std::string::npos) return "";
    size_t const open = report.find('"', report.find(':', key));
    size_t const close = report.find('"', open + 1);
    return close == std::string::npos ? "" : report.substr(open + 1, close - open - 1);
}

int listPlugins(nvinfer1::ICudaEngine const& engine) {
    std::unique_ptr<nvinfer1::IEngineInspector> inspector{engine.createEngineInspector()};
    check(inspector != nullptr, "createEngineInspector");
    int found = 0;
    for (int32_t i = 0; i < engine.getNbLayers(); ++i) {
        std::string const report =
            inspector->getLayerInformation(i, nvinfer1::LayerInformationFormat::kJSON);
        if (field(report, "LayerType").rfind("Plugin", 0) != 0) continue;
        std::printf("%s\n", field(report, "Name").c_str());
        ++found;
    }
    return found;
}

int64_t bytesOf(nvinfer1::Dims const& shape, int64_t batch) {
    int64_t count = batch * static_cast<int64_t>(sizeof(float));
    for (int32_t i = 1; i < shape.nbDims; ++i) count *= shape.d[i];
    return count;
}

void run(nvinfer1::ICudaEngine& engine) {
    using nvinfer1::OptProfileSelector;
    int64_t const batch = engine.getProfileShape("hu", 0, OptProfileSelector::kOPT).d[0];
    std::unique_ptr<nvinfer1::IExecutionContext> context{engine.createExecutionContext()};
    check(context != nullptr, "createExecutionContext");
    std::vector<std::unique_ptr<Device>> buffers;
    Stream stream;
    for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
        char const* name = engine.getIOTensorName(i);
        int64_t const bytes = bytesOf(engine.getTensorShape(name), batch);
        buffers.push_back(std::make_unique<Device>(bytes));
        void* const data = buffers.back()->data;
        std::vector<float> const zeros(static_cast<size_t>(bytes) / sizeof(float));  // water
        check(cudaMemcpyAsync(data, zeros.data(), static_cast<size_t>(bytes),
                              cudaMemcpyHostToDevice, stream.handle) == cudaSuccess,
              "copy to the GPU");
        check(cudaStreamSynchronize(stream.handle) == cudaSuccess, "copy to the GPU");
        check(context->setTensorAddress(name, data), "setTensorAddress");
    }
    check(context->setInputShape("hu", nvinfer1::Dims{4, {batch, 1, 512, 512}}), "setInputShape");
    check(context->enqueueV3(stream.handle), "enqueueV3");
    check(cudaStreamSynchronize(stream.handle) == cudaSuccess, "the run");
    std::printf("ran %lld slices\n", static_cast<long long>(batch));
}

void open(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> const blob{std::istreambuf_iterator<char>(file), {}};
    if (!file || blob.empty()) throw Input(path + ": missing, empty or not readable");
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
    check(runtime != nullptr, "createInferRuntime");
    std::unique_ptr<nvinfer1::ICudaEngine> engine{
        runtime->deserializeCudaEngine(blob.data(), blob.size())};
    if (!engine) throw Input(path + ": not an engine for this GPU and this release of TensorRT");
    if (listPlugins(*engine) == 0)
        throw Input(path + ": has no plugins; export it with --plugins");
    run(*engine);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::cerr << "usage: plugin_engine ENGINE\n";
        return 2;
    }
    try {
        open(arguments[1]);
    } catch (Input const& error) {
        std::cerr << "plugin_engine: " << error.what() << '\n';
        return 2;
    } catch (std::exception const& error) {
        std::cerr << "plugin_engine: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
