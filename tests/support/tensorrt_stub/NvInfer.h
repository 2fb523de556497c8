// A stub for tests: the part of TensorRT's C++ API that the examples use, with TensorRT's
// names and signatures, around a network that is 4 * the mean of the encoded slice, and half of that
// for the novelty. No GPU, no NVIDIA code. A stub engine is the text "stub-engine MIN OPT MAX", or
// "stub-engine MIN OPT MAX before-novelty"; other bytes do not deserialise. Words that follow
// "plugins" are layers of kind PluginV3, before one of another kind.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace nvinfer1 {

using AsciiChar = char;
enum class DataType : int32_t { kFLOAT = 0, kHALF = 1 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class LayerInformationFormat : int32_t { kONELINE = 0, kJSON = 1 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0 };

class Dims64 {
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
    int64_t d[MAX_DIMS];
};
using Dims = Dims64;

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    IExecutionContext(int64_t const* profile, size_t tensors)
        : mProfile(profile), mTensors(tensors) {}
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept {
        mBatch = dims.d[0];
        return std::strcmp(tensorName, "hu") == 0 && dims.nbDims == 4 && dims.d[1] == 1 &&
               dims.d[2] == 512 && dims.d[3] == 512 && mBatch >= mProfile[0] &&
               mBatch <= mProfile[2];
    }
    bool setTensorAddress(char const* tensorName, void* data) noexcept {
        mAddress[tensorName] = static_cast<float*>(data);
        return data != nullptr;
    }
    bool enqueueV3(cudaStream_t stream) noexcept {
        if (stream == nullptr || mAddress.size() != mTensors) return false;
        for (int64_t n = 0; n < mBatch; ++n) {
            double sum = 0;
            for (int64_t i = 0; i < 512 * 512; ++i)
                sum += std::clamp((mAddress["hu"][n * 512 * 512 + i] + 1000.0) / 1400.0, 0.0, 1.0);
            mAddress["score"][n] = static_cast<float>(4 * sum / (512 * 512));
            if (mTensors == 5) mAddress["novelty"][n] = mAddress["score"][n] / 2;
        }
        std::fprintf(stderr, "stub: batch %d\n", static_cast<int>(mBatch));
        return true;
    }

private:
    int64_t const* mProfile;
    size_t mTensors;
    int64_t mBatch{0};
    std::map<std::string, float*> mAddress;
};

class IEngineInspector {
public:
    explicit IEngineInspector(std::vector<std::string> const& layers) : mLayers(layers) {}
    virtual ~IEngineInspector() noexcept = default;
    AsciiChar const* getLayerInformation(
        int32_t layerIndex, LayerInformationFormat format) const noexcept {
        return format == LayerInformationFormat::kJSON ? mLayers[layerIndex].c_str() : "";
    }

private:
    std::vector<std::string> const& mLayers;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept {
        return new IExecutionContext(mProfile, mTensors);
    }
    IEngineInspector* createEngineInspector() const noexcept {
        return new IEngineInspector(mLayers);
    }
    int32_t getNbLayers() const noexcept { return static_cast<int32_t>(mLayers.size()); }
    int32_t getNbIOTensors() const noexcept { return mTensors; }
    char const* getIOTensorName(int32_t index) const noexcept {
        static char const* const names[] = {"hu", "score", "probs", "quality_map", "novelty"};
        return names[index];
    }
    DataType getTensorDataType(char const*) const noexcept { return DataType::kFLOAT; }
    Dims getTensorShape(char const* tensorName) const noexcept {
        if (std::strcmp(tensorName, "hu") == 0) return Dims{4, {-1, 1, 512, 512}};
        if (std::strcmp(tensorName, "score") == 0) return Dims{1, {-1}};
        if (std::strcmp(tensorName, "novelty") == 0) return Dims{1, {-1}};
        if (std::strcmp(tensorName, "probs") == 0) return Dims{2, {-1, 21}};
        return Dims{3, {-1, 16, 16}};
    }
    Dims getProfileShape(char const*, int32_t, OptProfileSelector select) const noexcept {
        return Dims{4, {mProfile[static_cast<int32_t>(select)], 1, 512, 512}};
    }
    int64_t mProfile[3];
    int32_t mTensors{5};
    std::vector<std::string> mLayers;
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
        auto* engine = new ICudaEngine;
        long long low, best, high;
        std::string const text(static_cast<char const*>(blob), size);
        if (std::sscanf(text.c_str(), "stub-engine %lld %lld %lld", &low, &best, &high) != 3) {
            delete engine;
            return nullptr;
        }
        engine->mProfile[0] = low;
        engine->mProfile[1] = best;
        engine->mProfile[2] = high;
        if (size_t const at = text.find("plugins"); at != std::string::npos) {
            std::istringstream names(text.substr(at + std::strlen("plugins")));
            for (std::string name; names >> name;)
                engine->mLayers.push_back(
                    R"({"Name": ")" + name + R"(", "LayerType": "PluginV3", "Outputs": []})");
        }
        engine->mLayers.push_back(R"({"Name": "fc", "LayerType": "gemm", "Outputs": []})");
        if (text.find("before-novelty") != std::string::npos) engine->mTensors = 4;
        return engine;
    }
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }

}  // namespace nvinfer1
