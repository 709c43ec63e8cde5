// The C interface of libllava_st_kernels.so, for callers that are neither C++ nor TensorRT. Each
// kernel's own header documents its arguments.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LLAVA_ST_ABI_VERSION = 2 };  // incremented with every change of this interface

enum { LLAVA_ST_FLOAT32 = 0, LLAVA_ST_FLOAT16 = 1, LLAVA_ST_BFLOAT16 = 2 };

// Status of a call; llava_st_error returns the reason for REJECTED and FAILED.
enum {
  LLAVA_ST_ENQUEUED = 0,
  LLAVA_ST_REJECTED = 1,  // sizes not supported; nothing was enqueued
  LLAVA_ST_FAILED = 2     // a CUDA call failed
};

int llava_st_abi_version(void);

// The reason of the calling thread's last error in one line, valid until its next call.
const char* llava_st_error(void);

// ``stream`` is a cudaStream_t of the current device. Strides are in elements.

// sizes: frames, height, width, heads, embed_dim, spatial_region, temporal_region.
// query_strides: region, head. key_strides, value_strides: frame, row, token.
int llava_st_region_attention(const int64_t* sizes, float epsilon, int scalar, const void* query,
                              const int64_t* query_strides, const void* key,
                              const int64_t* key_strides, const void* value,
                              const int64_t* value_strides, void* output, void* stream);

// sizes: frames, rows, columns, table_rows.
int llava_st_gather_add_gelu(const int64_t* sizes, int scalar, const void* const* terms,
                             const void* table, const int64_t* times, const void* addend,
                             void* output, void* stream);

#ifdef __cplusplus
}
#endif
