// A safetensors file with the network's configuration, checked before use.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace crn {

struct Config {
  std::string preset;
  int embed = 0, window = 0, octaves = 0, mlp_ratio = 0, image = 0;
  std::vector<int> depths, heads;
};

// Throws Error (CRN_BAD_CHECKPOINT) if the bytes are not a checkpoint of this network.
class Checkpoint {
 public:
  Checkpoint(const void* data, size_t size);
  const Config& config() const { return config_; }
  // The values of a tensor as float32; its shape must be this one and its values finite (but where
  // `any` is set).
  std::vector<float> take(const std::string& name, const std::vector<int64_t>& shape,
                          bool any = false);
  // Whether all tensors were read: a checkpoint with more tensors is of another version.
  void check_all_taken() const;

 private:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    const uint8_t* data;
    size_t count;
    bool taken = false;
  };
  void read_config(const std::string& text);
  std::map<std::string, Tensor> tensors_;
  Config config_;
};

}  // namespace crn
