// One block's work for one region. It names no thread index and no shared memory of its own, so
// that tests run the same source on a CPU.
#pragma once

#include <cmath>

#include "pieces.cuh"
#include "region_attention.h"

namespace llava_st {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Arguments {
  const void* query;
  QueryStrides query_strides;
  const void* key;
  GridStrides key_strides;
  const void* value;
  GridStrides value_strides;
  void* output;
  float epsilon;
  int heads, wide, spatial_region, temporal_region;
  int region, rows, columns;  // tokens of a region; regions of a frame

  Arguments(const RegionAttentionSizes& sizes, float epsilon, const void* query,
            QueryStrides query_strides, const void* key, GridStrides key_strides, const void* value,
            GridStrides value_strides, void* output)
      : query(query),
        query_strides(query_strides),
        key(key),
        key_strides(key_strides),
        value(value),
        value_strides(value_strides),
        output(output),
        epsilon(epsilon),
        heads(static_cast<int>(sizes.heads)),
        wide(static_cast<int>(sizes.wide)),
        spatial_region(static_cast<int>(sizes.spatial_region)),
        temporal_region(static_cast<int>(sizes.temporal_region)),
        region(static_cast<int>(sizes.region())),
        rows(static_cast<int>(sizes.height / sizes.spatial_region)),
        columns(static_cast<int>(sizes.width / sizes.spatial_region)) {}
};

// Lane l is told the sum over the warp of everyone's x[l]. x is used up.
template <int kHalf = kWarp / 2>
__device__ float warp_sum(float (&x)[kWarp], int lane) {
  if constexpr (kHalf == 0) {
    return x[0];
  } else {
    const bool upper = lane & kHalf;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, upper ? x[i] : x[i + kHalf], kHalf);
      x[i] = (upper ? x[i + kHalf] : x[i]) + other;
    }
    return warp_sum<kHalf / 2>(x, lane);
  }
}

// The same over the block, through ``sums`` [warps][32], which nothing else uses.
__device__ inline float block_sum(float (&x)[kWarp], float (*sums)[kWarp], int lane, int warp,
                                  int warps) {
  sums[warp][lane] = warp_sum(x, lane);
  __syncthreads();
  float total = 0;
  for (int w = 0; w < warps; ++w) total += sums[w][lane];
  return total;
}

// kRegion: tokens that there is room for in registers; those beyond the region's are zeros.
template <typename T, int kRegion, bool kAligned>
struct RegionBlock {
  static_assert(2 * kRegion <= kWarp, "statistics of all keys and values are one sum of 32");
  static constexpr int kPiece = Piece<T>::kCount;
  static constexpr int kMaxThreads = kMaxWide / kPiece;
  static constexpr int kMaxWarps = kMaxThreads / kWarp;
  // That share a multiprocessor's registers: one waits for memory while another computes.
  static constexpr int kBlocks = kRegion > 9 ? 1 : kPiece == 4 ? 2 : 3;
  static constexpr int kGroup = kWarp / kRegion;  // heads whose scores are one sum of 32
  static constexpr int kGroups = (kMaxHeads + kGroup - 1) / kGroup;

  struct Shared {
    float sums[kMaxWarps][kWarp], squares[kMaxWarps][kWarp];
    float scores[kGroups][kMaxWarps][kWarp];
    float weights[kMaxHeads][kRegion];
  };

  // Threads that cover a row, in whole warps.
  static int threads(int wide) { return (wide + kPiece * kWarp - 1) / (kPiece * kWarp) * kWarp; }

  static __device__ void run(const Arguments& a, int region, int thread, int threads,
                             Shared& shared) {
    const int lane = thread % kWarp, warp = thread / kWarp, warps = threads / kWarp;
    const int first = thread * kPiece, count = a.wide - first;
    const T* query = static_cast<const T*>(a.query) + region * a.query_strides.region;

    Piece<T> keys[kRegion], values[kRegion], next[kGroup];
    load_grid(a, a.key, a.key_strides, region, first, count, keys);
    load_grid(a, a.value, a.value_strides, region, first, count, values);
#pragma unroll
    for (int h = 0; h < kGroup; ++h) next[h] = load_head(a, query, h, first, count);

    float x[kWarp] = {};
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        x[k] += keys[k][i];
        x[kRegion + k] += values[k][i];
      }
    }
    const float mean = block_sum(x, shared.sums, lane, warp, warps) / a.wide;

    // The variance is of what is left without the mean: no digits are lost where that is large.
    float key[kRegion][kPiece];
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float key_mean = __shfl_sync(kAllLanes, mean, k);
      const float value_mean = __shfl_sync(kAllLanes, mean, kRegion + k);
      x[k] = x[kRegion + k] = 0;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        key[k][i] = keys[k][i] - key_mean;
        const float value = values[k][i] - value_mean;
        if (kAligned ? count > 0 : i < count) {
          x[k] += key[k][i] * key[k][i];
          x[kRegion + k] += value * value;
        }
      }
    }
#pragma unroll
    for (int i = 2 * kRegion; i < kWarp; ++i) x[i] = 0;
    const float variance = block_sum(x, shared.squares, lane, warp, warps) / a.wide;
    const float scale = 1 / sqrtf(variance + a.epsilon);
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float key_scale = __shfl_sync(kAllLanes, scale, k);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) key[k][i] *= key_scale;
    }

    for (int group = 0; group * kGroup < a.heads; ++group) {
#pragma unroll
      for (int i = 0; i < kWarp; ++i) x[i] = 0;
#pragma unroll
      for (int h = 0; h < kGroup; ++h) {
        const Piece<T> now = next[h];
        next[h] = load_head(a, query, (group + 1) * kGroup + h, first, count);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
          const float q = now[i];
#pragma unroll
          for (int k = 0; k < kRegion; ++k) x[h * kRegion + k] += q * key[k][i];
        }
      }
      shared.scores[group][warp][lane] = warp_sum(x, lane);
    }
    __syncthreads();
    if (thread < a.heads) soften(a, thread, warps, shared);
    __syncthreads();

    float value[kRegion][kPiece];
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float value_mean = __shfl_sync(kAllLanes, mean, kRegion + k);
      const float value_scale = __shfl_sync(kAllLanes, scale, kRegion + k);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) value[k][i] = (values[k][i] - value_mean) * value_scale;
    }
    T* output = static_cast<T*>(a.output) + std::int64_t{region} * a.heads * a.wide;
    for (int h = 0; h < a.heads; ++h) {
      float sum[kPiece] = {};
#pragma unroll
      for (int k = 0; k < kRegion; ++k) {
        const float weight = shared.weights[h][k];
#pragma unroll
        for (int i = 0; i < kPiece; ++i) sum[i] += weight * value[k][i];
      }
      Piece<T> piece;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) piece.set(i, sum[i]);
      store<kAligned>(output + std::int64_t{h} * a.wide, first, count, piece);
    }
  }

 private:
  // The region's tokens, frame by frame, row by row.
  static __device__ void load_grid(const Arguments& a, const void* grid, const GridStrides& strides,
                                   int region, int first, int count, Piece<T> (&pieces)[kRegion]) {
    const int column = region % a.columns, row = region / a.columns % a.rows;
    const int frame = region / a.columns / a.rows;
    const T* token = static_cast<const T*>(grid) +
                     std::int64_t{frame} * a.temporal_region * strides.frame +
                     std::int64_t{row} * a.spatial_region * strides.row +
                     std::int64_t{column} * a.spatial_region * strides.token;
    const std::int64_t next_row = strides.row - a.spatial_region * strides.token;
    const std::int64_t next_frame = strides.frame - a.spatial_region * strides.row;
    int x = 0, y = 0;
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      pieces[k] = k < a.region ? load<kAligned>(token, first, count) : Piece<T>{};
      token += strides.token;
      if (++x == a.spatial_region) {
        x = 0;
        ++y;
        token += next_row;
      }
      if (y == a.spatial_region) {
        y = 0;
        token += next_frame;
      }
    }
  }

  static __device__ Piece<T> load_head(const Arguments& a, const T* query, int head, int first,
                                       int count) {
    if (head >= a.heads) return {};
    return load<kAligned>(query + head * a.query_strides.head, first, count);
  }

  // One head's softmax over the region, by one thread.
  static __device__ void soften(const Arguments& a, int head, int warps, Shared& shared) {
    float score[kRegion], most = -INFINITY, sum = 0;
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      score[k] = 0;
      for (int w = 0; w < warps; ++w) {
        score[k] += shared.scores[head / kGroup][w][head % kGroup * kRegion + k];
      }
      if (k < a.region) most = fmaxf(most, score[k]);
    }
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      score[k] = k < a.region ? expf(score[k] - most) : 0;
      sum += score[k];
    }
#pragma unroll
    for (int k = 0; k < kRegion; ++k) shared.weights[head][k] = score[k] / sum;
  }
};

}  // namespace llava_st
