// Vectorized loads and stores: 16 bytes of a row per thread, converted to float32 and back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace llava_st {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float(float x) {
  return x;
}
template <>
__device__ inline __half from_float(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 from_float(float x) {
  return __float2bfloat16_rn(x);
}

// 16 bytes of a row.
template <typename T>
struct Vector {
  static constexpr int kCount = 16 / sizeof(T);
  uint4 bits;

  __device__ float operator[](int i) const {
    return to_float(reinterpret_cast<const T*>(&bits)[i]);
  }
  __device__ void set(int i, float x) { reinterpret_cast<T*>(&bits)[i] = from_float<T>(x); }
};

// Loads ``count`` elements from row[first] on and fills up with zeros. With kAligned, rows consist
// of complete vectors.
template <bool kAligned, typename T>
__device__ Vector<T> load(const T* row, int first, int count) {
  Vector<T> vector{};
  if constexpr (kAligned) {
    if (count > 0) vector.bits = *reinterpret_cast<const uint4*>(row + first);
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T>::kCount; ++i) {
      if (i < count) vector.set(i, to_float(row[first + i]));
    }
  }
  return vector;
}

template <bool kAligned, typename T>
__device__ void store(T* row, int first, int count, const Vector<T>& vector) {
  if constexpr (kAligned) {
    if (count > 0) *reinterpret_cast<uint4*>(row + first) = vector.bits;
  } else {
#pragma unroll
    for (int i = 0; i < Vector<T>::kCount; ++i) {
      if (i < count) row[first + i] = from_float<T>(vector[i]);
    }
  }
}

// Whether rows at a stride of ``stride`` bytes from ``pointer`` on are aligned to 16 bytes.
inline bool vectorizable(const void* pointer, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && stride % 16 == 0;
}

}  // namespace llava_st
