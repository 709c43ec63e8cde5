// The dtypes that the kernels support.
#pragma once

namespace llava_st {

enum class Scalar { kFloat32, kFloat16, kBfloat16 };

}  // namespace llava_st
