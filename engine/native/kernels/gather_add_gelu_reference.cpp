#include "gather_add_gelu_reference.h"

#include <cmath>

namespace llava_st {

void gather_add_gelu_reference(const GatherAddGeluSizes& sizes, const double* const* terms,
                               const double* table, const std::int64_t* times, const double* addend,
                               double* output) {
  const std::int64_t size = sizes.rows * sizes.columns;
  for (std::int64_t frame = 0; frame < sizes.frames; ++frame) {
    for (std::int64_t i = 0; i < size; ++i) {
      double x = terms[frame][i] + table[times[frame] * sizes.columns + i % sizes.columns];
      if (addend != nullptr) x += addend[frame * size + i];
      output[frame * size + i] = x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    }
  }
}

}  // namespace llava_st
