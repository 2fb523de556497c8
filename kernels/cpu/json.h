// The JSON of a checkpoint's header: a strict reader for untrusted input.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace crn {

struct Json {
  enum class Kind { null, boolean, integer, real, string, list, object };
  Kind kind = Kind::null;
  bool boolean = false;
  int64_t integer = 0;
  std::string string;
  std::vector<Json> list;
  std::map<std::string, Json> object;
};

// Throws Error (CRN_BAD_CHECKPOINT) with `what` in its text: not JSON, a key twice, too deep.
Json parse_json(std::string_view text, const char* what);

}  // namespace crn
