#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace llava_st {

struct Bound {
  const char* name;
  std::int64_t value, least, most;
};

// The first value that lies outside of its bounds, in one line; empty where there is none.
inline std::string outside(std::initializer_list<Bound> bounds) {
  for (const Bound& bound : bounds) {
    if (bound.value < bound.least || bound.value > bound.most) {
      return std::string(bound.name) + " is " + std::to_string(bound.value) + "; expected " +
             std::to_string(bound.least) + " to " + std::to_string(bound.most);
    }
  }
  return {};
}

}  // namespace llava_st
