#include "json.h"

#include "error.h"

namespace crn {
namespace {

constexpr int kDepth = 8;

class Parser {
 public:
  Parser(std::string_view text, const char* what) : text_(text), what_(what) {}

  Json document() {
    Json found = value(0);
    space();
    if (at_ != text_.size()) fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(CRN_BAD_CHECKPOINT, "%s: not valid JSON at byte %zu", what_, at_);
  }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' ||
                                  text_[at_] == '\r'))
      at_++;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void expect(char c) {
    if (peek() != c || at_ >= text_.size()) fail();
    at_++;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDepth) fail();
    space();
    Json found;
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return list(depth);
      case '"':
        found.kind = Json::Kind::string;
        found.string = string();
        return found;
      case 't':
      case 'f':
        found.kind = Json::Kind::boolean;
        found.boolean = peek() == 't';
        if (!take(found.boolean ? "true" : "false")) fail();
        return found;
      case 'n':
        if (!take("null")) fail();
        return found;
      default:
        return number();
    }
  }

  Json object(int depth) {
    Json found;
    found.kind = Json::Kind::object;
    expect('{');
    space();
    if (peek() == '}') return at_++, found;
    for (;;) {
      space();
      std::string key = string();
      space();
      expect(':');
      if (!found.object.emplace(key, value(depth + 1)).second)
        throw Error(CRN_BAD_CHECKPOINT, "%s: %.80s is there twice", what_, key.c_str());
      space();
      if (peek() == '}') return at_++, found;
      expect(',');
    }
  }

  Json list(int depth) {
    Json found;
    found.kind = Json::Kind::list;
    expect('[');
    space();
    if (peek() == ']') return at_++, found;
    for (;;) {
      found.list.push_back(value(depth + 1));
      space();
      if (peek() == ']') return at_++, found;
      expect(',');
    }
  }

  // Only integers are read; other numbers are skipped.
  Json number() {
    Json found;
    found.kind = Json::Kind::integer;
    const bool negative = peek() == '-';
    if (negative) at_++;
    if (peek() < '0' || peek() > '9') fail();
    if (peek() == '0' && at_ + 1 < text_.size() && text_[at_ + 1] >= '0' && text_[at_ + 1] <= '9')
      fail();
    for (; peek() >= '0' && peek() <= '9'; at_++) {
      if (found.integer > (INT64_MAX - 9) / 10) fail();
      found.integer = 10 * found.integer + (peek() - '0');
    }
    if (negative) found.integer = -found.integer;
    if (peek() == '.' || peek() == 'e' || peek() == 'E') {
      found.kind = Json::Kind::real;
      while (peek() == '.' || peek() == 'e' || peek() == 'E' || peek() == '+' || peek() == '-' ||
             (peek() >= '0' && peek() <= '9'))
        at_++;
    }
    return found;
  }

  std::string string() {
    expect('"');
    std::string found;
    for (;;) {
      if (at_ >= text_.size()) fail();
      const unsigned char c = (unsigned char)text_[at_++];
      if (c == '"') return found;
      if (c < 0x20) fail();
      if (c != '\\') {
        found += (char)c;
        continue;
      }
      switch (peek()) {
        case '"': found += '"'; break;
        case '\\': found += '\\'; break;
        case '/': found += '/'; break;
        case 'n': found += '\n'; break;
        case 't': found += '\t'; break;
        case 'r': found += '\r'; break;
        case 'b': found += '\b'; break;
        case 'f': found += '\f'; break;
        default: fail();  // no name or value of a checkpoint has a character by its number
      }
      at_++;
    }
  }

  std::string_view text_;
  const char* what_;
  size_t at_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const char* what) { return Parser(text, what).document(); }

}  // namespace crn
