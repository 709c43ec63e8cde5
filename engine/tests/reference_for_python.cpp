// The reference by a C name, so that Python can hold it to the operator that defines it.
#include "kernels/region_attention_reference.h"

#pragma GCC visibility push(default)

// sizes: frames, height, width, heads, wide, spatial_region, temporal_region.
extern "C" void region_attention_reference(const std::int64_t* sizes, double epsilon,
                                           const double* query, const double* key,
                                           const double* value, double* output) {
  llava_st::region_attention_reference(
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]}, epsilon, query, key,
      value, output);
}

#pragma GCC visibility pop
