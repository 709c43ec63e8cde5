// late_gelu in float64 on the CPU, as it is defined: what tests hold the kernel to.
#pragma once

#include "late_gelu.h"

namespace llava_st {

// All tensors contiguous, ``addend`` or null. Sizes must have no problem_of, and times be rows of
// the table.
void late_gelu_reference(const LateGeluSizes& sizes, const double* const* terms,
                         const double* table, const std::int64_t* times, const double* addend,
                         double* output);

}  // namespace llava_st
