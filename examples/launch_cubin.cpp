// Launch the float32 Sobel stem of `clinreadnet export-kernels` with the CUDA driver API.
//
//   g++ -std=c++17 -I$CUDA_HOME/include launch_cubin.cpp -lcuda -o launch_cubin
//   launch_cubin kernels sobel_stem.fp32.sm90.cubin B H W x.f32 weight.f32 bias.f32 out.f32
//
// x [B, 1, H, W] encoded 0...1, weight [C0, 4, 3, 3], bias [C0] and the output
// [B, (H + 1) / 2, (W + 1) / 2, C0] are raw little-endian float32. Research use only.

#include <cuda.h>

#include <cctype>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Sizes = std::map<std::string, long>;

void check(CUresult result, const char* what) {
    if (result == CUDA_SUCCESS) return;
    const char* reason = nullptr;
    cuGetErrorString(result, &reason);
    throw std::runtime_error(std::string(what) + ": " + (reason ? reason : "unknown error"));
}

std::vector<char> read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<char> read_floats(const std::string& path, long count) {
    std::vector<char> bytes = read(path);
    if (bytes.size() != count * sizeof(float))
        throw std::runtime_error(path + ": " + std::to_string(bytes.size()) + " bytes, not " +
                                 std::to_string(count * sizeof(float)));
    return bytes;
}

// The value that follows "key": in a kernel's record: a number, or the first quoted text.
std::string field(const std::string& record, const std::string& key) {
    std::size_t at = record.find('"' + key + "\":");
    if (at == std::string::npos) throw std::runtime_error("kernels.json: no " + key);
    at = record.find_first_of("\"0123456789", at + key.size() + 3);
    if (at == std::string::npos) throw std::runtime_error("kernels.json: no value of " + key);
    if (record[at] == '"') return record.substr(at + 1, record.find('"', at + 1) - at - 1);
    return record.substr(at, record.find_first_not_of("0123456789", at) - at);
}

// A grid in kernels.json: sums, products and quotients (rounded down) of numbers and sizes.
class Grid {
  public:
    Grid(const std::string& text, const Sizes& sizes) : text_(text), sizes_(sizes) {}

    long value() {
        const long result = sum();
        if (peek() != '\0') throw std::runtime_error("grid '" + text_ + "' cannot be read");
        return result;
    }

  private:
    char peek() {
        while (at_ < text_.size() && text_[at_] == ' ') ++at_;
        return at_ < text_.size() ? text_[at_] : '\0';
    }

    long sum() {
        long result = product();
        while (peek() == '+') ++at_, result += product();
        return result;
    }

    long product() {
        long result = factor();
        for (char sign = peek(); sign == '*' || sign == '/'; sign = peek()) {
            ++at_;
            const long right = factor();
            result = sign == '*' ? result * right : result / right;
        }
        return result;
    }

    long factor() {
        if (peek() == '(') {
            ++at_;
            const long result = sum();
            if (peek() != ')') throw std::runtime_error("grid '" + text_ + "': no ')'");
            ++at_;
            return result;
        }
        std::string word;
        while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0))
            word += text_[at_++];
        if (word.empty()) throw std::runtime_error("grid '" + text_ + "' cannot be read");
        return std::isdigit(static_cast<unsigned char>(word[0])) ? std::stol(word)
                                                                 : sizes_.at(word);
    }

    const std::string text_;
    const Sizes& sizes_;
    std::size_t at_ = 0;
};

CUdeviceptr upload(const std::vector<char>& bytes) {
    CUdeviceptr pointer = 0;  // cuMemAlloc aligns to 256 bytes; the kernel asks for 16
    check(cuMemAlloc(&pointer, bytes.size()), "cuMemAlloc");
    check(cuMemcpyHtoD(pointer, bytes.data(), bytes.size()), "cuMemcpyHtoD");
    return pointer;
}

void run(char** argument) {
    const std::string folder = argument[1], name = argument[2];
    const Sizes sizes{{"B", std::stol(argument[3])},
                      {"H", std::stol(argument[4])},
                      {"W", std::stol(argument[5])}};
    const long batch = sizes.at("B"), h = sizes.at("H"), w = sizes.at("W");
    if (batch < 1 || h < 1 || w < 1) throw std::runtime_error("B, H and W must be positive");

    const std::vector<char> index = read(folder + "/kernels.json");
    std::string record(index.begin(), index.end());
    const std::size_t at = record.find("\"file\": \"" + name + '"');
    if (at == std::string::npos) throw std::runtime_error("kernels.json: no file " + name);
    record = record.substr(at);
    if (field(record, "name") != "sobel_stem")
        throw std::runtime_error(name + ": this program launches sobel_stem");
    if (field(record, "precision") != "fp32")
        throw std::runtime_error(name + ": this program feeds float32");
    const long c0 = std::stol(field(record, "C0"));
    const long grid = Grid(field(record, "grid"), sizes).value();
    const long threads = std::stol(field(record, "block"));
    const long shared = std::stol(field(record, "dynamic_shared_bytes"));

    const std::vector<char> image = read(folder + '/' + name);
    const std::vector<char> x_host = read_floats(argument[6], batch * h * w);
    const std::vector<char> weight_host = read_floats(argument[7], c0 * 36);
    const std::vector<char> bias_host = read_floats(argument[8], c0);
    std::vector<char> out_host(batch * ((h + 1) / 2) * ((w + 1) / 2) * c0 * sizeof(float));

    CUdevice device = 0;
    CUcontext context = nullptr;
    CUmodule module = nullptr;
    CUfunction kernel = nullptr;
    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuModuleLoadData(&module, image.data()), "cuModuleLoadData");
    check(cuModuleGetFunction(&kernel, module, field(record, "entry").c_str()),
          "cuModuleGetFunction");
    if (shared > 48 * 1024)
        check(cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                 static_cast<int>(shared)),
              "cuFuncSetAttribute");

    CUdeviceptr x = upload(x_host), weight = upload(weight_host), bias = upload(bias_host);
    CUdeviceptr out = upload(out_host);
    auto height = static_cast<std::int32_t>(h), width = static_cast<std::int32_t>(w);
    CUdeviceptr global_scratch = 0, profile_scratch = 0;  // every Triton kernel ends with these two
    void* parameters[] = {&x,     &weight, &bias,           &height,
                          &width, &out,    &global_scratch, &profile_scratch};
    check(cuLaunchKernel(kernel, static_cast<unsigned>(grid), 1, 1, static_cast<unsigned>(threads),
                         1, 1, static_cast<unsigned>(shared), nullptr, parameters, nullptr),
          "cuLaunchKernel");
    check(cuMemcpyDtoH(out_host.data(), out, out_host.size()), "cuMemcpyDtoH");

    for (CUdeviceptr pointer : {x, weight, bias, out}) check(cuMemFree(pointer), "cuMemFree");
    check(cuModuleUnload(module), "cuModuleUnload");
    check(cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");

    std::ofstream file(argument[9], std::ios::binary);
    if (!file.write(out_host.data(), static_cast<std::streamsize>(out_host.size())))
        throw std::runtime_error(std::string(argument[9]) + ": cannot be written");
}

}  // namespace

int main(int count, char** argument) {
    if (count != 10) {
        std::cerr << "usage: launch_cubin FOLDER FILE B H W x.f32 weight.f32 bias.f32 out.f32\n";
        return 2;
    }
    try {
        run(argument);
    } catch (const std::exception& error) {
        std::cerr << "launch_cubin: " << error.what() << '\n';
        return 1;
    }
}
