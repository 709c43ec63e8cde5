#include "library.h"

#include <string>

#include "late_gelu.h"
#include "region_attention.h"

namespace {

using llava_st::Scalar;

thread_local std::string reason;

int refused(const std::string& why) {
  reason = why;
  return LLAVA_ST_REFUSED;
}

int outcome(cudaError_t error) {
  if (error == cudaSuccess) return LLAVA_ST_ENQUEUED;
  reason = cudaGetErrorString(error);
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

const char* llava_st_error(void) { return reason.c_str(); }

int llava_st_region_attention(const int64_t* sizes, float epsilon, int scalar, const void* query,
                              const int64_t* query_strides, const void* key,
                              const int64_t* key_strides, const void* value,
                              const int64_t* value_strides, void* output, void* stream) {
  const llava_st::RegionAttentionSizes all{sizes[0], sizes[1], sizes[2], sizes[3],
                                           sizes[4], sizes[5], sizes[6]};
  if (const std::string problem = problem_of(all); !problem.empty()) return refused(problem);
  if (!(epsilon > 0)) return refused("epsilon is " + std::to_string(epsilon) + "; expected > 0");
  if (!is_scalar(scalar)) return refused("scalar is " + std::to_string(scalar));
  return outcome(llava_st::region_attention(
      all, epsilon, static_cast<Scalar>(scalar), query, {query_strides[0], query_strides[1]}, key,
      grid_strides(key_strides), value, grid_strides(value_strides), output,
      static_cast<cudaStream_t>(stream)));
}

int llava_st_late_gelu(const int64_t* sizes, int scalar, const void* const* terms,
                       const void* table, const int64_t* times, const void* addend, void* output,
                       void* stream) {
  const llava_st::LateGeluSizes all{sizes[0], sizes[1], sizes[2], sizes[3]};
  if (const std::string problem = problem_of(all); !problem.empty()) return refused(problem);
  if (!is_scalar(scalar)) return refused("scalar is " + std::to_string(scalar));
  return outcome(llava_st::late_gelu(all, static_cast<Scalar>(scalar), terms, table, times, addend,
                                     output, static_cast<cudaStream_t>(stream)));
}

#pragma GCC visibility pop
