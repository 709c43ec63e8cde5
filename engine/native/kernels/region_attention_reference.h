// region_attention in float64 on the CPU, the reference of the kernel's tests.
#pragma once

#include "region_attention.h"

namespace llava_st {

// All tensors are contiguous. Sizes must be supported.
void region_attention_reference(const RegionAttentionSizes& sizes, double epsilon,
                                const double* query, const double* key, const double* value,
                                double* output);

}  // namespace llava_st
