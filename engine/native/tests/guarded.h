// Tensors with guard elements around them, compared with float64 references.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/scalar.h"

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
  static constexpr double kTolerance = 1e-3;  // slightly more than half an ulp of float16 below 2
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

// A tensor in host memory with kGuard NaN elements on both sides, and NaN between its tokens.
template <typename T>
struct Guarded {
  static constexpr std::int64_t kGuard = 1024;
  std::vector<T> memory;
  std::int64_t begin = kGuard;

  explicit Guarded(std::int64_t size, std::int64_t offset = 0)
      : memory(size + 2 * kGuard + offset, ScalarOf<T>::from(std::nan(""))),
        begin(kGuard + offset) {}

  // The largest error, relative to max(1, |expected|). Infinite if an element was not written or a
  // guard was.
  double error(const std::vector<double>& expected) const {
    double largest = 0;
    const auto size = static_cast<std::int64_t>(expected.size());
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(memory.size()); ++i) {
      const double x = ScalarOf<T>::to(memory[i]);
      const bool inside = i >= begin && i < begin + size;
      if (std::isnan(x) == inside) return std::numeric_limits<double>::infinity();
      if (!inside) continue;
      const double exact = expected[i - begin];
      largest = std::max(largest, std::abs(x - exact) / std::max(1.0, std::abs(exact)));
    }
    return largest;
  }
};

}  // namespace llava_st
