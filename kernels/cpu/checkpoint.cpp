#include "checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "json.h"

namespace crn {
namespace {

constexpr size_t kLargestHeader = size_t(1) << 20;
constexpr size_t kLargestFile = size_t(1) << 31;
constexpr const char* kConfigKey = "clinreadnet_config";

[[noreturn]] void wrong(const std::string& name, const char* what) {
  throw Error(CRN_BAD_CHECKPOINT, "checkpoint: tensor %.80s %s", name.c_str(), what);
}

size_t item_size(const std::string& dtype) {
  if (dtype == "F16" || dtype == "BF16") return 2;
  return dtype == "F32" ? 4 : 0;
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// float16 -> float32 without branches, so that the compiler makes vectors of it: the exponent is moved by
// a product, which also normalises what is below the smallest normal number.
inline float half(uint16_t h) {
  const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
  const float scaled = from_bits(magnitude) * from_bits(0x77800000);  // 2^112
  uint32_t bits;
  std::memcpy(&bits, &scaled, 4);
  bits |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  return from_bits(bits | sign);
}

int whole(const Json& object, const char* key, int least, int most) {
  const auto at = object.object.find(key);
  if (at == object.object.end() || at->second.kind != Json::Kind::integer ||
      at->second.integer < least || at->second.integer > most)
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: its configuration has no %s of %d to %d", key,
                least, most);
  return (int)at->second.integer;
}

std::vector<int> wholes(const Json& object, const char* key, int least, int most) {
  const auto at = object.object.find(key);
  std::vector<int> found;
  if (at != object.object.end() && at->second.kind == Json::Kind::list)
    for (const Json& one : at->second.list)
      if (one.kind == Json::Kind::integer && one.integer >= least && one.integer <= most)
        found.push_back((int)one.integer);
  if (found.size() != 4 || at->second.list.size() != 4)
    throw Error(CRN_BAD_CHECKPOINT,
                "checkpoint: its configuration has no %s, four integers of %d to %d", key, least,
                most);
  return found;
}

}  // namespace

Checkpoint::Checkpoint(const void* data, size_t size) {
  const uint8_t* bytes = (const uint8_t*)data;
  if (size > kLargestFile)
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: larger than %zu bytes", kLargestFile);
  if (size < 8) throw Error(CRN_BAD_CHECKPOINT, "checkpoint: truncated, %zu bytes", size);
  uint64_t header = 0;
  for (int i = 0; i < 8; i++) header |= (uint64_t)bytes[i] << (8 * i);
  if (header > kLargestHeader || header > size - 8)
    throw Error(CRN_BAD_CHECKPOINT,
                "checkpoint: truncated or no safetensors file, its header would be %llu bytes long",
                (unsigned long long)header);
  const Json all = parse_json({(const char*)bytes + 8, (size_t)header}, "checkpoint: header");
  if (all.kind != Json::Kind::object)
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: its header is not a JSON object");
  const uint8_t* start = bytes + 8 + header;
  const uint64_t room = size - 8 - header;
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  std::string config;
  for (const auto& [name, entry] : all.object) {
    if (name == "__metadata__") {
      const auto at = entry.object.find(kConfigKey);
      if (at != entry.object.end() && at->second.kind == Json::Kind::string)
        config = at->second.string;
      continue;
    }
    const auto dtype = entry.object.find("dtype"), shape = entry.object.find("shape"),
               offsets = entry.object.find("data_offsets");
    if (entry.object.size() != 3 || dtype == entry.object.end() || shape == entry.object.end() ||
        offsets == entry.object.end())
      wrong(name, "has not just dtype, shape and data_offsets");
    const size_t item = item_size(dtype->second.string);
    if (item == 0) wrong(name, "is not of type F16, BF16 or F32");
    if (shape->second.kind != Json::Kind::list || shape->second.list.size() > 4)
      wrong(name, "has a shape that is not a list of at most 4");
    Tensor tensor{dtype->second.string, {}, nullptr, 1};
    for (const Json& one : shape->second.list) {
      if (one.kind != Json::Kind::integer || one.integer < 0 ||
          one.integer > (int64_t)kLargestFile)
        wrong(name, "has a shape that is not of sizes");
      tensor.shape.push_back(one.integer);
      if (one.integer != 0 && tensor.count > kLargestFile / (size_t)one.integer)
        wrong(name, "is larger than the file");
      tensor.count *= (size_t)one.integer;
    }
    const auto& pair = offsets->second.list;
    if (pair.size() != 2 || pair[0].kind != Json::Kind::integer ||
        pair[1].kind != Json::Kind::integer || pair[0].integer < 0 ||
        pair[1].integer < pair[0].integer || (uint64_t)pair[1].integer > room)
      wrong(name, "lies outside of the file: it is truncated or damaged");
    if ((uint64_t)(pair[1].integer - pair[0].integer) != (uint64_t)tensor.count * item)
      wrong(name, "has another number of bytes than its shape");
    tensor.data = start + pair[0].integer;
    spans.emplace_back(pair[0].integer, pair[1].integer);
    tensors_.emplace(name, std::move(tensor));
  }
  std::sort(spans.begin(), spans.end());
  uint64_t end = 0;
  for (const auto& [from, to] : spans) {
    if (from != end) throw Error(CRN_BAD_CHECKPOINT, "checkpoint: its tensors overlap or leave gaps");
    end = to;
  }
  if (end != room) throw Error(CRN_BAD_CHECKPOINT, "checkpoint: bytes follow its last tensor");
  read_config(config);
}

void Checkpoint::read_config(const std::string& text) {
  if (text.empty())
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: carries no ClinReadNet configuration");
  const Json all = parse_json(text, "checkpoint: configuration");
  const char* known[] = {"preset",  "embed_dim", "depths",    "heads",     "window",
                         "octaves", "mlp_ratio", "image_dim", "use_sobel", "use_attention"};
  for (const auto& [key, value] : all.object)
    if (std::none_of(std::begin(known), std::end(known), [&](const char* k) { return key == k; }))
      throw Error(CRN_BAD_CHECKPOINT,
                  "checkpoint: of another version, its configuration has %.40s; install a newer "
                  "library",
                  key.c_str());
  const auto preset = all.object.find("preset");
  if (preset == all.object.end() || preset->second.kind != Json::Kind::string ||
      preset->second.string.size() > 31)
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: its configuration names no preset");
  config_.preset = preset->second.string;
  config_.embed = whole(all, "embed_dim", 16, 256);
  config_.window = whole(all, "window", 8, 8);
  config_.octaves = whole(all, "octaves", 3, 3);
  config_.mlp_ratio = whole(all, "mlp_ratio", 1, 8);
  config_.image = whole(all, "image_dim", 1, 4096);
  config_.depths = wholes(all, "depths", 1, 64);
  config_.heads = wholes(all, "heads", 1, 256);
  for (const char* key : {"use_sobel", "use_attention"}) {
    const auto at = all.object.find(key);
    if (at == all.object.end() || at->second.kind != Json::Kind::boolean || !at->second.boolean)
      throw Error(CRN_BAD_CHECKPOINT, "checkpoint: a network without %s runs in PyTorch alone", key);
  }
  int dim = config_.embed;
  for (int heads : config_.heads) {
    if (dim != 16 * heads && dim != 32 * heads)
      throw Error(CRN_BAD_CHECKPOINT, "checkpoint: %d heads of %d channels; a head has 16 or 32",
                  heads, dim);
    dim *= 2;
  }
  // Half of them are the stem's: whole vectors of 16, or a single panel.
  if (config_.embed % 32 != 0 && config_.embed != 48)
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: %d channels are neither 48 nor a multiple of 32",
                config_.embed);
}

std::vector<float> Checkpoint::take(const std::string& name, const std::vector<int64_t>& shape,
                                    bool any) {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) wrong(name, "is missing: the checkpoint is of another version");
  Tensor& tensor = at->second;
  if (tensor.shape != shape) wrong(name, "has another shape than its preset");
  tensor.taken = true;
  const size_t n = tensor.count;
  std::vector<float> values(n);
  float* to = values.data();
  const uint8_t* from = tensor.data;
  if (tensor.dtype == "F32") {
    if (n > 0) std::memcpy(to, from, 4 * n);
  } else if (tensor.dtype == "F16") {
    for (size_t i = 0; i < n; i++) {
      uint16_t h;
      std::memcpy(&h, from + 2 * i, 2);
      to[i] = half(h);
    }
  } else {
    for (size_t i = 0; i < n; i++) {
      uint16_t h;
      std::memcpy(&h, from + 2 * i, 2);
      to[i] = from_bits((uint32_t)h << 16);
    }
  }
  if (any) return values;
  uint32_t most = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    std::memcpy(&bits, to + i, 4);
    most = std::max(most, bits & 0x7fffffffu);
  }
  if (most >= 0x7f800000u) wrong(name, "holds a value that is not finite");
  return values;
}

void Checkpoint::check_all_taken() const {
  for (const auto& [name, tensor] : tensors_)
    if (!tensor.taken) wrong(name, "is not of this network: the checkpoint is of another version");
}

}  // namespace crn
