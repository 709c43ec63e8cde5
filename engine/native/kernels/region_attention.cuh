// One block's work for one region. The thread index and shared memory are parameters, so that tests
// can run the same source on a CPU.
#pragma once

#include <cmath>

#include "region_attention.h"
#include "vector_io.cuh"

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
  int heads, embed_dim, spatial_region, temporal_region;
  int region, rows, columns;  // tokens per region; rows and columns of regions per frame

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
        embed_dim(static_cast<int>(sizes.embed_dim)),
        spatial_region(static_cast<int>(sizes.spatial_region)),
        temporal_region(static_cast<int>(sizes.temporal_region)),
        region(static_cast<int>(sizes.region())),
        rows(static_cast<int>(sizes.height / sizes.spatial_region)),
        columns(static_cast<int>(sizes.width / sizes.spatial_region)) {}
};

// Returns in lane l the sum of x[l] over the warp's lanes. Overwrites x.
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

// The same over the block. ``sums`` [warps][32] is shared memory that nothing else uses.
__device__ inline float block_sum(float (&x)[kWarp], float (*sums)[kWarp], int lane, int warp,
                                  int warps) {
  sums[warp][lane] = warp_sum(x, lane);
  __syncthreads();
  float total = 0;
  for (int w = 0; w < warps; ++w) total += sums[w][lane];
  return total;
}

// kRegion: capacity of the registers in tokens; tokens beyond the region's are zeros.
template <typename T, int kRegion, bool kAligned>
struct RegionBlock {
  static_assert(2 * kRegion <= kWarp, "statistics of all keys and values fit one warp_sum");
  static constexpr int kVector = Vector<T>::kCount;
  static constexpr int kMaxThreads = kMaxEmbedDim / kVector;
  static constexpr int kMaxWarps = kMaxThreads / kWarp;
  // Resident blocks per multiprocessor: one computes while another waits for memory.
  static constexpr int kBlocks = kRegion > 9 ? 1 : kVector == 4 ? 2 : 3;
  static constexpr int kGroup = kWarp / kRegion;  // heads whose scores fit one warp_sum
  static constexpr int kGroups = (kMaxHeads + kGroup - 1) / kGroup;

  struct Shared {
    float sums[kMaxWarps][kWarp], squares[kMaxWarps][kWarp];
    float scores[kGroups][kMaxWarps][kWarp];
    float weights[kMaxHeads][kRegion];
  };

  // Number of threads that cover a row, a multiple of the warp size.
  static int threads(int embed_dim) {
    return (embed_dim + kVector * kWarp - 1) / (kVector * kWarp) * kWarp;
  }

  static __device__ void run(const Arguments& a, int region, int thread, int threads,
                             Shared& shared) {
    const int lane = thread % kWarp, warp = thread / kWarp, warps = threads / kWarp;
    const int first = thread * kVector, count = a.embed_dim - first;
    const T* query = static_cast<const T*>(a.query) + region * a.query_strides.region;

    Vector<T> keys[kRegion], values[kRegion], next[kGroup];
    load_grid(a, a.key, a.key_strides, region, first, count, keys);
    load_grid(a, a.value, a.value_strides, region, first, count, values);
#pragma unroll
    for (int h = 0; h < kGroup; ++h) next[h] = load_head(a, query, h, first, count);

    float x[kWarp] = {};
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[k] += keys[k][i];
        x[kRegion + k] += values[k][i];
      }
    }
    const float mean = block_sum(x, shared.sums, lane, warp, warps) / a.embed_dim;

    // Two passes: the variance of centered values is exact to rounding also for a large mean.
    float key[kRegion][kVector];
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float key_mean = __shfl_sync(kAllLanes, mean, k);
      const float value_mean = __shfl_sync(kAllLanes, mean, kRegion + k);
      x[k] = x[kRegion + k] = 0;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
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
    const float variance = block_sum(x, shared.squares, lane, warp, warps) / a.embed_dim;
    const float scale = 1 / sqrtf(variance + a.epsilon);
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float key_scale = __shfl_sync(kAllLanes, scale, k);
#pragma unroll
      for (int i = 0; i < kVector; ++i) key[k][i] *= key_scale;
    }

    for (int group = 0; group * kGroup < a.heads; ++group) {
#pragma unroll
      for (int i = 0; i < kWarp; ++i) x[i] = 0;
#pragma unroll
      for (int h = 0; h < kGroup; ++h) {
        const Vector<T> now = next[h];
        next[h] = load_head(a, query, (group + 1) * kGroup + h, first, count);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const float q = now[i];
#pragma unroll
          for (int k = 0; k < kRegion; ++k) x[h * kRegion + k] += q * key[k][i];
        }
      }
      shared.scores[group][warp][lane] = warp_sum(x, lane);
    }
    __syncthreads();
    if (thread < a.heads) softmax(a, thread, warps, shared);
    __syncthreads();

    float value[kRegion][kVector];
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      const float value_mean = __shfl_sync(kAllLanes, mean, kRegion + k);
      const float value_scale = __shfl_sync(kAllLanes, scale, kRegion + k);
#pragma unroll
      for (int i = 0; i < kVector; ++i) value[k][i] = (values[k][i] - value_mean) * value_scale;
    }
    T* output = static_cast<T*>(a.output) + std::int64_t{region} * a.heads * a.embed_dim;
    for (int h = 0; h < a.heads; ++h) {
      float sum[kVector] = {};
#pragma unroll
      for (int k = 0; k < kRegion; ++k) {
        const float weight = shared.weights[h][k];
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[i] += weight * value[k][i];
      }
      Vector<T> vector;
#pragma unroll
      for (int i = 0; i < kVector; ++i) vector.set(i, sum[i]);
      store<kAligned>(output + std::int64_t{h} * a.embed_dim, first, count, vector);
    }
  }

 private:
  // Loads the region's tokens, frame by frame, row by row.
  static __device__ void load_grid(const Arguments& a, const void* grid, const GridStrides& strides,
                                   int region, int first, int count,
                                   Vector<T> (&vectors)[kRegion]) {
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
      vectors[k] = k < a.region ? load<kAligned>(token, first, count) : Vector<T>{};
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

  static __device__ Vector<T> load_head(const Arguments& a, const T* query, int head, int first,
                                        int count) {
    if (head >= a.heads) return {};
    return load<kAligned>(query + head * a.query_strides.head, first, count);
  }

  // One head's softmax over the region, computed by one thread.
  static __device__ void softmax(const Arguments& a, int head, int warps, Shared& shared) {
    float score[kRegion], max = -INFINITY, sum = 0;
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      score[k] = 0;
      for (int w = 0; w < warps; ++w) {
        score[k] += shared.scores[head / kGroup][w][head % kGroup * kRegion + k];
      }
      if (k < a.region) max = fmaxf(max, score[k]);
    }
#pragma unroll
    for (int k = 0; k < kRegion; ++k) {
      score[k] = k < a.region ? expf(score[k] - max) : 0;
      sum += score[k];
    }
#pragma unroll
    for (int k = 0; k < kRegion; ++k) shared.weights[head][k] = score[k] / sum;
  }
};

}  // namespace llava_st
