// Attention of a few queries to the tokens of their own region, read where they lie on the grid.
//
// The function is llava_st_ros/model/packer/region_attention.py's: keys and values are brought to mean 0
// and variance 1 over E, scores are plain products, and each head's output is the sum of normalized
// values under the softmax of its scores. All sums are in float32.
//
// One block takes one region, a thread the same 16 bytes of every row. Each row of keys, values and
// queries is read from memory once, for all heads, and stays in registers: statistics, scores and
// sums work on what is there. Only sums cross threads, 32 at a time: a lane gives half of what it
// still holds to another at each step, 31 shuffles in the place of 160. With the published 8 heads,
// regions of 9 and E = 1024 in 16 bit a block moves 68 KiB for 1152 multiply-adds a thread. These
// take a sixth of the time that the memory takes on a Jetson AGX Orin (204 GB/s, 5.3 TFLOP/s), so
// matrix units would gain nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "scalar.h"

namespace llava_st {

constexpr int kMaxHeads = 16;
constexpr int kMaxWide = 1024;  // elements of a row, E
constexpr int kMaxRegion = 16;  // tokens of a region

// Keys and values [frames, height, width, wide]; queries and output [frames / temporal_region,
// height / spatial_region, width / spatial_region, heads, wide].
struct RegionAttentionSizes {
  std::int64_t frames, height, width, heads, wide, spatial_region, temporal_region;

  std::int64_t region() const { return spatial_region * spatial_region * temporal_region; }
  std::int64_t regions() const { return frames * height * width / region(); }
};

// From one frame, row and token of a grid to the next, in elements. A token's own are contiguous.
struct GridStrides {
  std::int64_t frame, row, token;
};

GridStrides contiguous(const RegionAttentionSizes& sizes);

// From one region's queries to the next region's, and from one head's to the next one's.
struct QueryStrides {
  std::int64_t region, head;
};

// What region_attention does not take, in one line; empty where it takes the sizes. A grid without
// tokens is one of no regions.
std::string problem_of(const RegionAttentionSizes& sizes);

// Enqueues the attention of all regions on ``stream`` and returns; no memory is allocated and
// nothing is waited for, so it can be captured into a graph. Pointers are device pointers of
// ``scalar``, the output contiguous; 16-byte accesses are used where pointers, strides and ``wide``
// allow them. ``epsilon`` > 0 stands beside the variance. Sizes with a problem_of are
// cudaErrorInvalidValue.
cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, QueryStrides query_strides, const void* key,
                             GridStrides key_strides, const void* value, GridStrides value_strides,
                             void* output, cudaStream_t stream);

// The same for queries that are contiguous.
cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, const void* key, GridStrides key_strides,
                             const void* value, GridStrides value_strides, void* output,
                             cudaStream_t stream);

}  // namespace llava_st
