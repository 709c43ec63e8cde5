#include <limits>

#include "bounds.h"
#include "gather_add_gelu.h"

namespace llava_st {

std::string unsupported_reason(const GatherAddGeluSizes& sizes) {
  constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
  constexpr std::int64_t kMaxFrameElements = 1 << 30;  // indices within a frame are 32-bit
  std::string problem = check_bounds({
      {"frames", sizes.frames, 0, kMaxInt32},
      {"rows", sizes.rows, 0, kMaxFrameElements},
      {"elements of a row", sizes.columns, 1, kMaxFrameElements},
      {"rows of the table", sizes.table_rows, 1, kMaxInt32},
  });
  if (problem.empty()) {
    problem =
        check_bounds({{"elements of a frame", sizes.rows * sizes.columns, 0, kMaxFrameElements}});
  }
  return problem;
}

}  // namespace llava_st
