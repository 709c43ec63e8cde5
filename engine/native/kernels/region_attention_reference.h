// region_attention in float64 on the CPU, as it is defined: what tests hold the kernel to.
#pragma once

#include "region_attention.h"

namespace llava_st {

// All tensors contiguous. Sizes must have no problem_of.
void region_attention_reference(const RegionAttentionSizes& sizes, double epsilon,
                                const double* query, const double* key, const double* value,
                                double* output);

}  // namespace llava_st
