// Gather, add and GELU in one pass: output_i = GELU(term_i + table[time_i] + addend_i).
//
// The operator of llava_st_ros/model/packer/gather_add_gelu.py. In the streaming packer, term_i is
// the first Linear of a frame's tokens, computed when the frame arrives; the table row is what the
// frame's time index adds to it, known only when the window is packed. In a framework this takes
// four passes over memory: stack the terms, add the rows, add the addend, apply GELU. Here each
// element is read and written once. The terms stay where each frame has them: their addresses are
// kernel arguments. Sums are in float32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "scalar.h"

namespace llava_st {

// Sizes of terms [rows, columns] (one per frame), table [table_rows, columns], times [frames],
// addend and output [frames, rows, columns].
struct GatherAddGeluSizes {
  std::int64_t frames, rows, columns, table_rows;
};

// Returns a one-line reason why the kernel does not support these sizes; empty if it does.
std::string unsupported_reason(const GatherAddGeluSizes& sizes);

// Enqueues output = GELU(terms[i] + table[times[i]] + addend[i]) for all frames i on ``stream``.
//
// GELU(x) = x (1 + erf(x / sqrt 2)) / 2. The call allocates nothing and does not wait, so it can be
// captured into a CUDA graph, which then keeps the addresses of the terms. ``terms`` is a host
// array of device pointers; all other pointers are device pointers. Tensors are contiguous, of
// dtype ``scalar``; ``addend`` may be null. Accesses are 16 bytes wide if pointers and ``columns``
// are aligned to that. A time index out of the table reads its nearest row. Returns
// cudaErrorInvalidValue for unsupported sizes.
cudaError_t gather_add_gelu(const GatherAddGeluSizes& sizes, Scalar scalar,
                            const void* const* terms, const void* table, const std::int64_t* times,
                            const void* addend, void* output, cudaStream_t stream);

}  // namespace llava_st
