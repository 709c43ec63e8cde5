// One thread's work for one frame. The thread index is a parameter, so that tests can run the same
// source on a CPU.
#pragma once

#include <algorithm>
#include <cmath>

#include "gather_add_gelu.h"
#include "vector_io.cuh"

namespace llava_st {

// The frames' addresses are kernel arguments, which may take 4 KB on every GPU and toolkit.
constexpr int kMaxFramesPerLaunch = 500;

struct GatherAddGeluArguments {
  const void* terms[kMaxFramesPerLaunch];
  const void* table;
  const std::int64_t* times;
  const void* addend;  // may be null
  void* output;
  int frames, rows, columns, table_rows;

  // The arguments for the frames from ``first`` on, at most kMaxFramesPerLaunch.
  template <typename T>
  static GatherAddGeluArguments of(const GatherAddGeluSizes& sizes, std::int64_t first,
                                   const void* const* terms, const T* table,
                                   const std::int64_t* times, const T* addend, T* output) {
    GatherAddGeluArguments a{};
    const std::int64_t before = first * sizes.rows * sizes.columns;
    a.frames = static_cast<int>(std::min<std::int64_t>(sizes.frames - first, kMaxFramesPerLaunch));
    std::copy_n(terms + first, a.frames, a.terms);
    a.table = table;
    a.times = times + first;
    a.addend = addend == nullptr ? nullptr : addend + before;
    a.output = output + before;
    a.rows = static_cast<int>(sizes.rows);
    a.columns = static_cast<int>(sizes.columns);
    a.table_rows = static_cast<int>(sizes.table_rows);
    return a;
  }
};
static_assert(sizeof(GatherAddGeluArguments) <= 4096, "limit of kernel arguments");

// A thread computes the same 16-byte vector of kRows rows, so the table's vector is read once for
// all of them.
template <typename T, bool kAligned>
struct GatherAddGelu {
  static constexpr int kVector = Vector<T>::kCount;
  static constexpr int kRows = 4;

  static __host__ __device__ int vectors(int columns) { return (columns + kVector - 1) / kVector; }

  // Number of threads that cover a frame.
  static int threads(int rows, int columns) {
    return (rows + kRows - 1) / kRows * vectors(columns);
  }

  static __device__ void run(const GatherAddGeluArguments& a, int frame, int thread) {
    const int across = vectors(a.columns);
    const int row = thread / across * kRows, first = thread % across * kVector;
    if (row >= a.rows) return;
    const int count = a.columns - first;
    const std::int64_t begin = std::int64_t{row} * a.columns;
    const std::int64_t before = std::int64_t{frame} * a.rows * a.columns + begin;
    const T* term = static_cast<const T*>(a.terms[frame]) + begin;
    const T* addend = static_cast<const T*>(a.addend);
    T* output = static_cast<T*>(a.output) + before;

    // All loads are issued before their first use, to overlap their latencies.
    Vector<T> terms[kRows], addends[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int left = row + r < a.rows ? count : 0;
      terms[r] = load<kAligned>(term + std::int64_t{r} * a.columns, first, left);
      addends[r] = addend == nullptr
                       ? Vector<T>{}
                       : load<kAligned>(addend + before + std::int64_t{r} * a.columns, first, left);
    }
    const std::int64_t time = a.times[frame], last = a.table_rows - 1;
    const std::int64_t clamped = time < 0 ? 0 : time > last ? last : time;
    const Vector<T> table_row =
        load<kAligned>(static_cast<const T*>(a.table) + clamped * a.columns, first, count);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int left = row + r < a.rows ? count : 0;
      Vector<T> vector;
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        vector.set(i, gelu(terms[r][i] + table_row[i] + addends[r][i]));
      store<kAligned>(output + std::int64_t{r} * a.columns, first, left, vector);
    }
  }

 private:
  static __device__ float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }
};

}  // namespace llava_st
