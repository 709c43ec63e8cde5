#include <limits>

#include "bounds.h"
#include "region_attention.h"

namespace llava_st {
namespace {

std::string not_divisible(const char* name, std::int64_t value, std::int64_t region) {
  return std::string(name) + " is " + std::to_string(value) + "; expected a multiple of " +
         std::to_string(region) + ", the region's";
}

}  // namespace

GridStrides contiguous(const RegionAttentionSizes& sizes) {
  return {sizes.height * sizes.width * sizes.embed_dim, sizes.width * sizes.embed_dim,
          sizes.embed_dim};
}

std::string unsupported_reason(const RegionAttentionSizes& sizes) {
  constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
  const std::string problem = check_bounds({
      {"spatial_region", sizes.spatial_region, 1, kMaxRegion},
      {"temporal_region", sizes.temporal_region, 1, kMaxRegion},
      {"tokens of a region", sizes.region(), 1, kMaxRegion},
      {"heads", sizes.heads, 1, kMaxHeads},
      {"elements of a row", sizes.embed_dim, 1, kMaxEmbedDim},
      {"frames", sizes.frames, 0, kMaxInt32},
      {"height", sizes.height, 0, kMaxInt32},
      {"width", sizes.width, 0, kMaxInt32},
  });
  if (!problem.empty()) return problem;
  if (sizes.frames % sizes.temporal_region != 0) {
    return not_divisible("frames", sizes.frames, sizes.temporal_region);
  }
  if (sizes.height % sizes.spatial_region != 0) {
    return not_divisible("height", sizes.height, sizes.spatial_region);
  }
  if (sizes.width % sizes.spatial_region != 0) {
    return not_divisible("width", sizes.width, sizes.spatial_region);
  }
  // The grid size of the launch, checked without a product that could overflow.
  const std::int64_t rows =
      sizes.frames / sizes.temporal_region * (sizes.height / sizes.spatial_region);
  const std::int64_t columns = sizes.width / sizes.spatial_region;
  if (columns > 0 && rows > kMaxInt32 / columns) {
    return "regions are more than " + std::to_string(kMaxInt32);
  }
  return {};
}

}  // namespace llava_st
