#include <limits>

#include "bounds.h"
#include "late_gelu.h"

namespace llava_st {

std::string problem_of(const LateGeluSizes& sizes) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  constexpr std::int64_t kMostOfFrame = 1 << 30;  // a frame's elements are counted in 32 bits
  std::string problem = outside({
      {"frames", sizes.frames, 0, kMost},
      {"rows", sizes.rows, 0, kMostOfFrame},
      {"elements of a row", sizes.wide, 1, kMostOfFrame},
      {"rows of the table", sizes.table_rows, 1, kMost},
  });
  if (problem.empty()) {
    problem = outside({{"elements of a frame", sizes.rows * sizes.wide, 0, kMostOfFrame}});
  }
  return problem;
}

}  // namespace llava_st
