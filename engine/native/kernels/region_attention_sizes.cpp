#include <limits>

#include "bounds.h"
#include "region_attention.h"

namespace llava_st {
namespace {

std::string indivisible(const char* name, std::int64_t value, std::int64_t region) {
  return std::string(name) + " is " + std::to_string(value) + "; expected a multiple of " +
         std::to_string(region) + ", the region's";
}

}  // namespace

GridStrides contiguous(const RegionAttentionSizes& sizes) {
  return {sizes.height * sizes.width * sizes.wide, sizes.width * sizes.wide, sizes.wide};
}

std::string problem_of(const RegionAttentionSizes& sizes) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const std::string problem = outside({
      {"spatial_region", sizes.spatial_region, 1, kMaxRegion},
      {"temporal_region", sizes.temporal_region, 1, kMaxRegion},
      {"tokens of a region", sizes.region(), 1, kMaxRegion},
      {"heads", sizes.heads, 1, kMaxHeads},
      {"elements of a row", sizes.wide, 1, kMaxWide},
      {"frames", sizes.frames, 0, kMost},
      {"height", sizes.height, 0, kMost},
      {"width", sizes.width, 0, kMost},
  });
  if (!problem.empty()) return problem;
  if (sizes.frames % sizes.temporal_region != 0) {
    return indivisible("frames", sizes.frames, sizes.temporal_region);
  }
  if (sizes.height % sizes.spatial_region != 0) {
    return indivisible("height", sizes.height, sizes.spatial_region);
  }
  if (sizes.width % sizes.spatial_region != 0) {
    return indivisible("width", sizes.width, sizes.spatial_region);
  }
  // Blocks of a launch, without a product that overflows.
  const std::int64_t rows =
      sizes.frames / sizes.temporal_region * (sizes.height / sizes.spatial_region);
  const std::int64_t columns = sizes.width / sizes.spatial_region;
  if (columns > 0 && rows > kMost / columns) {
    return "regions are more than " + std::to_string(kMost);
  }
  return {};
}

}  // namespace llava_st
