#include "library.h"

#include <string>

#include "gather_add_gelu.h"
#include "region_attention.h"

namespace {

using llava_st::Scalar;

thread_local std::string last_error;

int rejected(const std::string& reason) {
  last_error = reason;
  return LLAVA_ST_REJECTED;
}

int status_of(cudaError_t error) {
  if (error == cudaSuccess) return LLAVA_ST_ENQUEUED;
  last_error = cudaGetErrorString(error);
  return LLAVA_ST_FAILED;
}

bool is_scalar(int scalar) { return scalar >= LLAVA_ST_FLOAT32 && scalar <= LLAVA_ST_BFLOAT16; }

llava_st::GridStrides grid_strides(const int64_t* strides) {
  return {strides[0], strides[1], strides[2]};
}

}  // namespace

static_assert(static_cast<int>(Scalar::kFloat32) == LLAVA_ST_FLOAT32 &&
              static_cast<int>(Scalar::kFloat16) == LLAVA_ST_FLOAT16 &&
              static_cast<int>(Scalar::kBfloat16) == LLAVA_ST_BFLOAT16);

#pragma GCC visibility push(default)

int llava_st_abi_version(void) { return LLAVA_ST_ABI_VERSION; }

const char* llava_st_error(void) { return last_error.c_str(); }

int llava_st_region_attention(const int64_t* sizes, float epsilon, int scalar, const void* query,
                              const int64_t* query_strides, const void* key,
                              const int64_t* key_strides, const void* value,
                              const int64_t* value_strides, void* output, void* stream) {
  const llava_st::RegionAttentionSizes all{sizes[0], sizes[1], sizes[2], sizes[3],
                                           sizes[4], sizes[5], sizes[6]};
  if (const std::string problem = unsupported_reason(all); !problem.empty())
    return rejected(problem);
  if (!(epsilon > 0)) return rejected("epsilon is " + std::to_string(epsilon) + "; expected > 0");
  if (!is_scalar(scalar)) return rejected("scalar is " + std::to_string(scalar));
  return status_of(llava_st::region_attention(
      all, epsilon, static_cast<Scalar>(scalar), query, {query_strides[0], query_strides[1]}, key,
      grid_strides(key_strides), value, grid_strides(value_strides), output,
      static_cast<cudaStream_t>(stream)));
}

int llava_st_gather_add_gelu(const int64_t* sizes, int scalar, const void* const* terms,
                             const void* table, const int64_t* times, const void* addend,
                             void* output, void* stream) {
  const llava_st::GatherAddGeluSizes all{sizes[0], sizes[1], sizes[2], sizes[3]};
  if (const std::string problem = unsupported_reason(all); !problem.empty())
    return rejected(problem);
  if (!is_scalar(scalar)) return rejected("scalar is " + std::to_string(scalar));
  return status_of(llava_st::gather_add_gelu(all, static_cast<Scalar>(scalar), terms, table, times,
                                             addend, output, static_cast<cudaStream_t>(stream)));
}

#pragma GCC visibility pop
