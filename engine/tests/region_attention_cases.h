// Inputs of region attention in a scalar type, on grids with room around each token, and how far an
// output is from the float64 reference. Shared by the tests on the CPU and on a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/region_attention.h"
#include "kernels/region_attention_reference.h"

namespace llava_st {

template <typename T>
struct ScalarOf;
template <>
struct ScalarOf<float> {
  static constexpr Scalar kScalar = Scalar::kFloat32;
  static constexpr double kTolerance = 1e-5;
  static float from(double x) { return static_cast<float>(x); }
  static double to(float x) { return x; }
};
template <>
struct ScalarOf<__half> {
  static constexpr Scalar kScalar = Scalar::kFloat16;
  static constexpr double kTolerance = 1e-3;  // half a step of float16 below 2, and a little
  static __half from(double x) { return __float2half_rn(static_cast<float>(x)); }
  static double to(__half x) { return __half2float(x); }
};
template <>
struct ScalarOf<__nv_bfloat16> {
  static constexpr Scalar kScalar = Scalar::kBfloat16;
  static constexpr double kTolerance = 8e-3;
  static __nv_bfloat16 from(double x) { return __float2bfloat16_rn(static_cast<float>(x)); }
  static double to(__nv_bfloat16 x) { return __bfloat162float(x); }
};

struct RegionAttentionCase {
  const char* name;
  RegionAttentionSizes sizes;
  std::int64_t room = 0;    // elements between tokens, rows and frames of keys and values
  std::int64_t offset = 0;  // elements before the first
  double mean = 0.5;        // of keys and values, whose deviation is 1
};

inline std::ostream& operator<<(std::ostream& out, const RegionAttentionCase& c) {
  return out << c.name;
}

// frames, height, width, heads, wide, spatial_region, temporal_region.
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
};

// Of a value near 1. The mean is a sum in float32: what it loses, what is left without it loses.
template <typename T>
double tolerance(const RegionAttentionCase& c) {
  return ScalarOf<T>::kTolerance + 1e-6 * std::abs(c.mean);
}

// A tensor in a row of memory, with ``kGuard`` elements of NaN around it and between its tokens.
template <typename T>
struct Guarded {
  static constexpr std::int64_t kGuard = 1024;
  std::vector<T> memory;
  std::int64_t begin = kGuard;

  explicit Guarded(std::int64_t size, std::int64_t offset = 0)
      : memory(size + 2 * kGuard + offset, ScalarOf<T>::from(std::nan(""))),
        begin(kGuard + offset) {}
};

template <typename T>
class RegionAttentionData {
 public:
  explicit RegionAttentionData(const RegionAttentionCase& c)
      : sizes(c.sizes),
        strides(strides_of(c)),
        query(output_size()),
        key(grid_size(), c.offset),
        value(grid_size(), c.offset),
        output(output_size()) {
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    // Scores of deviation 2, so that the softmax is neither flat nor one token's.
    const double scale = 2 / std::sqrt(static_cast<double>(sizes.wide));
    std::vector<double> queries(output_size()), keys, values;
    for (std::int64_t i = 0; i < output_size(); ++i) {
      const T x = ScalarOf<T>::from(scale * normal(random));
      query.memory[query.begin + i] = x;
      queries[i] = ScalarOf<T>::to(x);
    }
    for (std::int64_t frame = 0; frame < sizes.frames; ++frame) {
      for (std::int64_t row = 0; row < sizes.height; ++row) {
        for (std::int64_t column = 0; column < sizes.width; ++column) {
          const std::int64_t token =
              frame * strides.frame + row * strides.row + column * strides.token;
          for (std::int64_t i = 0; i < sizes.wide; ++i) {
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

  // The largest difference from the reference, over 1 and its size: infinite where the output was
  // not written, or what lies around it was.
  double error() const {
    double largest = 0;
    const auto end = static_cast<std::int64_t>(output.memory.size());
    for (std::int64_t i = 0; i < end; ++i) {
      const double x = ScalarOf<T>::to(output.memory[i]);
      const bool inside = i >= output.begin && i < output.begin + output_size();
      if (std::isnan(x) == inside) return std::numeric_limits<double>::infinity();
      if (!inside) continue;
      const double wanted = reference_[i - output.begin];
      largest = std::max(largest, std::abs(x - wanted) / std::max(1.0, std::abs(wanted)));
    }
    return largest;
  }

  static constexpr float kEpsilon = 1e-5f;
  RegionAttentionSizes sizes;
  GridStrides strides;
  Guarded<T> query, key, value, output;

 private:
  static GridStrides strides_of(const RegionAttentionCase& c) {
    const std::int64_t token = c.sizes.wide + c.room;
    const std::int64_t row = c.sizes.width * token + c.room;
    return {c.sizes.height * row + c.room, row, token};
  }

  std::int64_t grid_size() const { return sizes.frames * strides.frame; }
  std::int64_t output_size() const { return sizes.regions() * sizes.heads * sizes.wide; }

  std::vector<double> reference_;
};

}  // namespace llava_st
