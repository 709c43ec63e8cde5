// Range checks of sizes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace llava_st {

struct Bound {
  const char* name;
  std::int64_t value, min, max;
};

// Describes the first value that is out of its bounds in one line; empty if there is none.
inline std::string check_bounds(std::initializer_list<Bound> bounds) {
  for (const Bound& bound : bounds) {
    if (bound.value < bound.min || bound.value > bound.max) {
      return std::string(bound.name) + " is " + std::to_string(bound.value) + "; expected " +
             std::to_string(bound.min) + " to " + std::to_string(bound.max);
    }
  }
  return {};
}

}  // namespace llava_st
