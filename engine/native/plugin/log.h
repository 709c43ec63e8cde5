// Error log of the library: TensorRT's logger after setLoggerFinder, else stderr.
#pragma once

#include <string>

namespace llava_st {

// Logs one line with severity kERROR.
void log_error(const std::string& message) noexcept;

}  // namespace llava_st
