// gather_add_gelu in float64 on the CPU, the reference of the kernel's tests.
#pragma once

#include "gather_add_gelu.h"

namespace llava_st {

// All tensors are contiguous; ``addend`` may be null. Sizes must be supported, and times in range.
void gather_add_gelu_reference(const GatherAddGeluSizes& sizes, const double* const* terms,
                               const double* table, const std::int64_t* times, const double* addend,
                               double* output);

}  // namespace llava_st
