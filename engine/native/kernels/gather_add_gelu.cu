#include "gather_add_gelu.cuh"

namespace llava_st {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // resident blocks per multiprocessor (__launch_bounds__)

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads, kBlocks)
    gather_add_gelu_kernel(const __grid_constant__ GatherAddGeluArguments arguments) {
  GatherAddGelu<T, kAligned>::run(arguments, blockIdx.y, blockIdx.x * kThreads + threadIdx.x);
}

template <typename T>
bool aligned(const GatherAddGeluArguments& a) {
  const std::int64_t row_bytes = a.columns * std::int64_t{sizeof(T)};
  const auto ok = [row_bytes](const void* pointer) { return vectorizable(pointer, row_bytes); };
  return ok(a.table) && ok(a.addend) && ok(a.output) &&
         std::all_of(a.terms, a.terms + a.frames, ok);
}

template <typename T, bool kAligned>
cudaError_t launch(GatherAddGeluArguments& arguments, cudaStream_t stream) {
  const int threads = GatherAddGelu<T, kAligned>::threads(arguments.rows, arguments.columns);
  const dim3 blocks((threads + kThreads - 1) / kThreads, arguments.frames);
  void* all[] = {&arguments};
  return cudaLaunchKernel(reinterpret_cast<const void*>(gather_add_gelu_kernel<T, kAligned>),
                          blocks, dim3(kThreads), all, 0, stream);
}

template <typename T>
cudaError_t launch_all(const GatherAddGeluSizes& sizes, const void* const* terms, const void* table,
                       const std::int64_t* times, const void* addend, void* output,
                       cudaStream_t stream) {
  for (std::int64_t first = 0; first < sizes.frames; first += kMaxFramesPerLaunch) {
    auto arguments =
        GatherAddGeluArguments::of(sizes, first, terms, static_cast<const T*>(table), times,
                                   static_cast<const T*>(addend), static_cast<T*>(output));
    const cudaError_t error = aligned<T>(arguments) ? launch<T, true>(arguments, stream)
                                                    : launch<T, false>(arguments, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t gather_add_gelu(const GatherAddGeluSizes& sizes, Scalar scalar,
                            const void* const* terms, const void* table, const std::int64_t* times,
                            const void* addend, void* output, cudaStream_t stream) {
  if (!unsupported_reason(sizes).empty()) return cudaErrorInvalidValue;
  if (sizes.rows == 0) return cudaSuccess;
  switch (scalar) {
    case Scalar::kFloat32:
      return launch_all<float>(sizes, terms, table, times, addend, output, stream);
    case Scalar::kFloat16:
      return launch_all<__half>(sizes, terms, table, times, addend, output, stream);
    case Scalar::kBfloat16:
      return launch_all<__nv_bfloat16>(sizes, terms, table, times, addend, output, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace llava_st
