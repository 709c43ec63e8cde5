// Test cases of region_attention: inputs on padded grids and the float64 reference, for the CPU and
// the GPU tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

#include "guarded.h"
#include "kernels/region_attention.h"
#include "kernels/region_attention_reference.h"

namespace llava_st {

struct RegionAttentionCase {
  const char* name;
  RegionAttentionSizes sizes;
  std::int64_t padding = 0;      // elements between tokens, rows and frames of keys and values
  std::int64_t offset = 0;       // offset of the first key and value, in elements
  double mean = 0.5;             // of keys and values, whose standard deviation is 1
  bool heads_outermost = false;  // memory layout of the queries, also padded
};

inline std::ostream& operator<<(std::ostream& out, const RegionAttentionCase& c) {
  return out << c.name;
}

// frames, height, width, heads, embed_dim, spatial_region, temporal_region
inline const RegionAttentionCase kCases[] = {
    {"7B_spatial", {1, 3, 6, 16, 1024, 3, 1}},
    {"7B_temporal", {10, 1, 1, 16, 1024, 1, 5}},
    {"tiny_spatial", {2, 4, 2, 8, 192, 2, 1}},
    {"tiny_temporal", {5, 2, 3, 8, 192, 1, 5}},
    {"odd_row", {2, 3, 3, 3, 37, 3, 1}},
    {"odd_row_of_many_warps", {1, 3, 3, 5, 601, 3, 1}},
    {"one_element", {1, 2, 2, 2, 1, 2, 1}},
    {"one_token", {2, 1, 3, 7, 64, 1, 1}},
    {"largest_region", {1, 4, 8, 16, 256, 4, 1}},
    {"region_of_eight", {4, 2, 4, 3, 72, 2, 2}},
    {"region_of_twelve", {6, 2, 4, 5, 40, 2, 3}},
    {"tokens_apart", {2, 3, 6, 4, 128, 3, 1}, 64},
    {"tokens_apart_unaligned", {2, 3, 6, 4, 128, 3, 1}, 3},
    {"first_unaligned", {5, 2, 2, 4, 128, 1, 5}, 0, 1},
    {"large_mean", {2, 3, 3, 4, 512, 3, 1}, 0, 0, 100},
    {"heads_outermost", {2, 3, 6, 5, 128, 3, 1}, 0, 0, 0.5, true},
    {"heads_outermost_unaligned", {5, 2, 2, 5, 128, 1, 5}, 3, 0, 0.5, true},
};

// For values near 1. The float32 rounding error of the mean is added to each centered value.
template <typename T>
double tolerance(const RegionAttentionCase& c) {
  return ScalarOf<T>::kTolerance + 1e-6 * std::abs(c.mean);
}

template <typename T>
class RegionAttentionData {
 public:
  explicit RegionAttentionData(const RegionAttentionCase& c)
      : sizes(c.sizes),
        strides(strides_of(c)),
        query_strides(query_strides_of(c)),
        query(sizes.regions() * query_strides.region + sizes.heads * query_strides.head),
        key(grid_size(), c.offset),
        value(grid_size(), c.offset),
        output(output_size()) {
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    // Scores have standard deviation 2, so that the softmax is neither flat nor one-hot.
    const double scale = 2 / std::sqrt(static_cast<double>(sizes.embed_dim));
    std::vector<double> queries(output_size()), keys, values;
    for (std::int64_t i = 0; i < output_size(); ++i) {
      const T x = ScalarOf<T>::from(scale * normal(random));
      const std::int64_t head = i / sizes.embed_dim % sizes.heads;
      const std::int64_t region = i / sizes.embed_dim / sizes.heads;
      query.memory[query.begin + region * query_strides.region + head * query_strides.head +
                   i % sizes.embed_dim] = x;
      queries[i] = ScalarOf<T>::to(x);
    }
    for (std::int64_t frame = 0; frame < sizes.frames; ++frame) {
      for (std::int64_t row = 0; row < sizes.height; ++row) {
        for (std::int64_t column = 0; column < sizes.width; ++column) {
          const std::int64_t token =
              frame * strides.frame + row * strides.row + column * strides.token;
          for (std::int64_t i = 0; i < sizes.embed_dim; ++i) {
            const T k = ScalarOf<T>::from(c.mean + normal(random));
            const T v = ScalarOf<T>::from(c.mean + normal(random));
            key.memory[key.begin + token + i] = k;
            value.memory[value.begin + token + i] = v;
            keys.push_back(ScalarOf<T>::to(k));
            values.push_back(ScalarOf<T>::to(v));
          }
        }
      }
    }
    reference_.resize(output_size());
    region_attention_reference(sizes, kEpsilon, queries.data(), keys.data(), values.data(),
                               reference_.data());
  }

  double error() const { return output.error(reference_); }

  static constexpr float kEpsilon = 1e-5f;
  RegionAttentionSizes sizes;
  GridStrides strides;
  QueryStrides query_strides;
  Guarded<T> query, key, value, output;

 private:
  static GridStrides strides_of(const RegionAttentionCase& c) {
    const std::int64_t token = c.sizes.embed_dim + c.padding;
    const std::int64_t row = c.sizes.width * token + c.padding;
    return {c.sizes.height * row + c.padding, row, token};
  }

  static QueryStrides query_strides_of(const RegionAttentionCase& c) {
    if (!c.heads_outermost) return {c.sizes.heads * c.sizes.embed_dim, c.sizes.embed_dim};
    const std::int64_t region = c.sizes.embed_dim + c.padding;
    return {region, c.sizes.regions() * region};
  }

  std::int64_t grid_size() const { return sizes.frames * strides.frame; }
  std::int64_t output_size() const { return sizes.regions() * sizes.heads * sizes.embed_dim; }

  std::vector<double> reference_;
};

}  // namespace llava_st
