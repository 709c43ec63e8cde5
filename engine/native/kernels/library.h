// The kernels by C names: libllava_st_kernels.so, for whatever is neither C++ nor TensorRT. What a
// kernel takes and does is said in its own header.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LLAVA_ST_ABI_VERSION = 1 };  // another with every change of what stands below

enum { LLAVA_ST_FLOAT32 = 0, LLAVA_ST_FLOAT16 = 1, LLAVA_ST_BFLOAT16 = 2 };

// What a call returns. Of REFUSED and FAILED llava_st_error tells the reason.
enum {
  LLAVA_ST_ENQUEUED = 0,
  LLAVA_ST_REFUSED = 1,  // the kernel does not take these sizes; nothing was enqueued
  LLAVA_ST_FAILED = 2    // CUDA does not
};

int llava_st_abi_version(void);

// Why the calling thread's last call was refused or failed, in one line, until its next one.
const char* llava_st_error(void);

// ``stream`` is a cudaStream_t of the current device. Strides are in elements.

// sizes: frames, height, width, heads, wide, spatial_region, temporal_region. query_strides: region,
// head. key_strides, value_strides: frame, row, token.
int llava_st_region_attention(const int64_t* sizes, float epsilon, int scalar, const void* query,
                              const int64_t* query_strides, const void* key,
                              const int64_t* key_strides, const void* value,
                              const int64_t* value_strides, void* output, void* stream);

// sizes: frames, rows, wide, table_rows.
int llava_st_late_gelu(const int64_t* sizes, int scalar, const void* const* terms,
                       const void* table, const int64_t* times, const void* addend, void* output,
                       void* stream);

#ifdef __cplusplus
}
#endif
