// GELU of what a frame's tokens are at their place in time: late_i = term_i + table[time_i], the
// first Linear's sum, of which the term is known when the frame comes and the row when the window
// is packed.
//
// The function is llava_st_ros/model/packer/late_gelu.py's. In operators of a framework it takes four
// passes over memory: the terms are stacked, the rows added, the addend added, and GELU taken. Here
// each element is read and written once, and the terms are read where each frame has them: their
// addresses travel in the launch's arguments. All sums are in float32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "scalar.h"

namespace llava_st {

// Terms [rows, wide] of each frame, table [table_rows, wide], times [frames]; addend and output
// [frames, rows, wide].
struct LateGeluSizes {
  std::int64_t frames, rows, wide, table_rows;
};

// What late_gelu does not take, in one line; empty where it takes the sizes.
std::string problem_of(const LateGeluSizes& sizes);

// Enqueues output = GELU(terms[i] + table[times[i]] + addend[i]) for all frames i on ``stream`` and
// returns; GELU is x (1 + erf(x / sqrt 2)) / 2. No memory is allocated and nothing is waited for,
// so it can be captured into a graph, which keeps the addresses of the terms. ``terms`` is an array
// of the host and its addresses, as all other pointers, are of the device, of ``scalar`` and
// contiguous; ``addend`` may be null. 16-byte accesses are used where pointers and ``wide`` allow
// them. ``times`` are the caller's to check: beyond the table they mean its first or last row.
// Sizes with a problem_of are cudaErrorInvalidValue.
cudaError_t late_gelu(const LateGeluSizes& sizes, Scalar scalar, const void* const* terms,
                      const void* table, const std::int64_t* times, const void* addend,
                      void* output, cudaStream_t stream);

}  // namespace llava_st
