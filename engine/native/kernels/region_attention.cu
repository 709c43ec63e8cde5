#include <utility>

#include "region_attention.cuh"

namespace llava_st {
namespace {

template <typename Block>
__global__ void __launch_bounds__(Block::kMaxThreads, Block::kBlocks)
    region_kernel(Arguments arguments) {
  __shared__ typename Block::Shared shared;
  Block::run(arguments, blockIdx.x, threadIdx.x, blockDim.x, shared);
}

template <typename T>
bool aligned(const Arguments& a) {
  constexpr std::int64_t kSize = sizeof(T);
  bool all = vectorizable(a.output, a.embed_dim * kSize) &&
             vectorizable(a.query, a.query_strides.region * kSize) &&
             vectorizable(a.query, a.query_strides.head * kSize);
  for (const auto& [grid, strides] :
       {std::pair{a.key, a.key_strides}, {a.value, a.value_strides}}) {
    for (const std::int64_t stride : {strides.frame, strides.row, strides.token}) {
      all = all && vectorizable(grid, stride * kSize);
    }
  }
  return all;
}

template <typename Block>
cudaError_t launch(Arguments& arguments, int regions, cudaStream_t stream) {
  void* all[] = {&arguments};
  return cudaLaunchKernel(reinterpret_cast<const void*>(region_kernel<Block>), dim3(regions),
                          dim3(Block::threads(arguments.embed_dim)), all, 0, stream);
}

// Aligned inputs use the instantiation with registers for the fewest tokens that suffices.
template <typename T>
cudaError_t launch_for(Arguments& arguments, int regions, cudaStream_t stream) {
  if (!aligned<T>(arguments)) {
    return launch<RegionBlock<T, kMaxRegion, false>>(arguments, regions, stream);
  }
  if (arguments.region <= 5) return launch<RegionBlock<T, 5, true>>(arguments, regions, stream);
  if (arguments.region <= 9) return launch<RegionBlock<T, 9, true>>(arguments, regions, stream);
  return launch<RegionBlock<T, kMaxRegion, true>>(arguments, regions, stream);
}

}  // namespace

cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, QueryStrides query_strides, const void* key,
                             GridStrides key_strides, const void* value, GridStrides value_strides,
                             void* output, cudaStream_t stream) {
  if (!unsupported_reason(sizes).empty() || !(epsilon > 0)) return cudaErrorInvalidValue;
  const int regions = static_cast<int>(sizes.regions());
  if (regions == 0) return cudaSuccess;
  Arguments arguments(sizes, epsilon, query, query_strides, key, key_strides, value, value_strides,
                      output);
  switch (scalar) {
    case Scalar::kFloat32:
      return launch_for<float>(arguments, regions, stream);
    case Scalar::kFloat16:
      return launch_for<__half>(arguments, regions, stream);
    case Scalar::kBfloat16:
      return launch_for<__nv_bfloat16>(arguments, regions, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t region_attention(const RegionAttentionSizes& sizes, float epsilon, Scalar scalar,
                             const void* query, const void* key, GridStrides key_strides,
                             const void* value, GridStrides value_strides, void* output,
                             cudaStream_t stream) {
  const QueryStrides strides{sizes.heads * sizes.embed_dim, sizes.embed_dim};
  return region_attention(sizes, epsilon, scalar, query, strides, key, key_strides, value,
                          value_strides, output, stream);
}

}  // namespace llava_st
