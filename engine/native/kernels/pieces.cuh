// Rows of memory in pieces of 16 bytes, their arithmetic in float32.
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

// A thread's 16 bytes of a row.
template <typename T>
struct Piece {
  static constexpr int kCount = 16 / sizeof(T);
  uint4 bits;

  __device__ float operator[](int i) const {
    return to_float(reinterpret_cast<const T*>(&bits)[i]);
  }
  __device__ void set(int i, float x) { reinterpret_cast<T*>(&bits)[i] = from_float<T>(x); }
};

// ``count`` elements, zeros after them. Aligned, a row has nothing but whole pieces.
template <bool kAligned, typename T>
__device__ Piece<T> load(const T* row, int first, int count) {
  Piece<T> piece{};
  if constexpr (kAligned) {
    if (count > 0) piece.bits = *reinterpret_cast<const uint4*>(row + first);
  } else {
#pragma unroll
    for (int i = 0; i < Piece<T>::kCount; ++i) {
      if (i < count) piece.set(i, to_float(row[first + i]));
    }
  }
  return piece;
}

template <bool kAligned, typename T>
__device__ void store(T* row, int first, int count, const Piece<T>& piece) {
  if constexpr (kAligned) {
    if (count > 0) *reinterpret_cast<uint4*>(row + first) = piece.bits;
  } else {
#pragma unroll
    for (int i = 0; i < Piece<T>::kCount; ++i) {
      if (i < count) row[first + i] = from_float<T>(piece[i]);
    }
  }
}

// Whether ``size`` bytes from ``pointer`` on are whole pieces, and so is whatever lies as far away.
inline bool whole_pieces(const void* pointer, std::int64_t size) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && size % 16 == 0;
}

}  // namespace llava_st
