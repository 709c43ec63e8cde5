// Attention of a few queries to the tokens of their own region, read in place from the grid.
//
// The operator of llava_st_ros/model/packer/region_attention.py: keys and values are normalized to
// mean 0 and variance 1 over E, scores are unscaled dot products, and each head's output is the sum
// of normalized values weighted by the softmax of its scores. Sums are in float32.
//
// One block computes one region; a thread holds the same 16 bytes of every row. Each row of keys,
// values and queries is read once, for all heads, and stays in registers, where statistics, scores
// and sums are computed. Only sums cross threads, 32 at a time: at each step a lane passes half of
// its partial sums to another lane, which takes 31 shuffles instead of 160. With the published 8
// heads, regions of 9 tokens and E = 1024 in 16 bits, a block moves 68 KiB for 1152 multiply-adds
// per thread. On a Jetson AGX Orin (204 GB/s, 5.3 TFLOP/s) the arithmetic takes a sixth of the time
// of the memory traffic, so tensor cores would gain nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "scalar.h"

namespace llava_st {

constexpr int kMaxHeads = 16;
constexpr int kMaxEmbedDim = 1024;  // E, elements of a row
constexpr int kMaxRegion = 16;      // tokens of a region

// Keys and values [frames, height, width, embed_dim]; queries and output [frames / temporal_region,
// height / spatial_region, width / spatial_region, heads, embed_dim].
struct RegionAttentionSizes {
  std::int64_t frames, height, width, heads, embed_dim, spatial_region, temporal_region;

  std::int64_t region() const { return spatial_region * spatial_region * temporal_region; }
  std::int64_t regions() const { return frames * height * width / region(); }
};

// Strides of a grid in elements; the elements of a token are contiguous.
struct GridStrides {
  std::int64_t frame, row, token;
};

GridStrides contiguous(const RegionAttentionSizes& sizes);

// Strides of the queries in elements.
struct QueryStrides {
  std::int64_t region, head;
};

// Returns a one-line reason why the kernel does not support these sizes; empty if it does. A grid
// without tokens is supported and has no regions.
std::string unsupported_reason(const RegionAttentionSizes& sizes);

// Enqueues the attention of all regions on ``stream``.
//
// The call allocates nothing and does not wait, so it can be captured into a CUDA graph. Pointers
// are device pointers to tensors of dtype ``scalar``; the output is contiguous. Accesses are 16
// bytes wide if pointers, strides and ``embed_dim`` are aligned to that. ``epsilon`` > 0 is added
// to the variance. Returns cudaErrorInvalidValue for unsupported sizes.
cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, QueryStrides query_strides, const void* key,
                             GridStrides key_strides, const void* value, GridStrides value_strides,
                             void* output, cudaStream_t stream);

// The same for contiguous queries.
cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, const void* key, GridStrides key_strides,
                             const void* value, GridStrides value_strides, void* output,
                             cudaStream_t stream);

}  // namespace llava_st
