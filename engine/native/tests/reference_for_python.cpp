// The references with C names, so that Python tests can compare them with the torch operators.
#include "kernels/gather_add_gelu_reference.h"
#include "kernels/region_attention_reference.h"

#pragma GCC visibility push(default)

// sizes: frames, height, width, heads, embed_dim, spatial_region, temporal_region.
extern "C" void region_attention_reference(const std::int64_t* sizes, double epsilon,
                                           const double* query, const double* key,
                                           const double* value, double* output) {
  llava_st::region_attention_reference(
      {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]}, epsilon, query, key,
      value, output);
}

// sizes: frames, rows, columns, table_rows.
extern "C" void gather_add_gelu_reference(const std::int64_t* sizes, const double* const* terms,
                                          const double* table, const std::int64_t* times,
                                          const double* addend, double* output) {
  llava_st::gather_add_gelu_reference({sizes[0], sizes[1], sizes[2], sizes[3]}, terms, table, times,
                                      addend, output);
}

#pragma GCC visibility pop
