// One thread's work for one frame. It names no thread index of its own, so that tests run the same
// source on a CPU.
#pragma once

#include <algorithm>
#include <cmath>

#include "late_gelu.h"
#include "pieces.cuh"

namespace llava_st {

// Of one launch: as many as its arguments, 4 KB on every GPU and toolkit, have room for.
constexpr int kFramesOfALaunch = 500;

struct LateGeluArguments {
  const void* terms[kFramesOfALaunch];
  const void* table;
  const std::int64_t* times;
  const void* addend;  // null where there is none
  void* output;
  int frames, rows, wide, table_rows;

  // Of the frames from ``first`` on, as many as a launch takes.
  template <typename T>
  static LateGeluArguments of(const LateGeluSizes& sizes, std::int64_t first,
                              const void* const* terms, const T* table, const std::int64_t* times,
                              const T* addend, T* output) {
    LateGeluArguments a{};
    const std::int64_t before = first * sizes.rows * sizes.wide;
    a.frames = static_cast<int>(std::min<std::int64_t>(sizes.frames - first, kFramesOfALaunch));
    std::copy_n(terms + first, a.frames, a.terms);
    a.table = table;
    a.times = times + first;
    a.addend = addend == nullptr ? nullptr : addend + before;
    a.output = output + before;
    a.rows = static_cast<int>(sizes.rows);
    a.wide = static_cast<int>(sizes.wide);
    a.table_rows = static_cast<int>(sizes.table_rows);
    return a;
  }
};
static_assert(sizeof(LateGeluArguments) <= 4096, "arguments of a launch");

// A thread takes the same 16 bytes of a few rows: the table's are read once for all of them.
template <typename T, bool kAligned>
struct LateGelu {
  static constexpr int kPiece = Piece<T>::kCount;
  static constexpr int kRows = 4;

  static __host__ __device__ int pieces(int wide) { return (wide + kPiece - 1) / kPiece; }

  // Threads that cover a frame.
  static int threads(int rows, int wide) { return (rows + kRows - 1) / kRows * pieces(wide); }

  static __device__ void run(const LateGeluArguments& a, int frame, int thread) {
    const int across = pieces(a.wide);
    const int row = thread / across * kRows, first = thread % across * kPiece;
    if (row >= a.rows) return;
    const int count = a.wide - first;
    const std::int64_t begin = std::int64_t{row} * a.wide;
    const std::int64_t before = std::int64_t{frame} * a.rows * a.wide + begin;
    const T* term = static_cast<const T*>(a.terms[frame]) + begin;
    const T* addend = static_cast<const T*>(a.addend);
    T* output = static_cast<T*>(a.output) + before;

    // All that is read is asked for before any of it is used.
    Piece<T> terms[kRows], addends[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int left = row + r < a.rows ? count : 0;
      terms[r] = load<kAligned>(term + std::int64_t{r} * a.wide, first, left);
      addends[r] = addend == nullptr
                       ? Piece<T>{}
                       : load<kAligned>(addend + before + std::int64_t{r} * a.wide, first, left);
    }
    const std::int64_t time = a.times[frame], last = a.table_rows - 1;
    const std::int64_t within = time < 0 ? 0 : time > last ? last : time;
    const Piece<T> late =
        load<kAligned>(static_cast<const T*>(a.table) + within * a.wide, first, count);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int left = row + r < a.rows ? count : 0;
      Piece<T> piece;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) piece.set(i, gelu(terms[r][i] + late[i] + addends[r][i]));
      store<kAligned>(output + std::int64_t{r} * a.wide, first, left, piece);
    }
  }

 private:
  static __device__ float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }
};

}  // namespace llava_st
