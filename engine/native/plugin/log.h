// Where the library says what it refuses: TensorRT's logger, once setLoggerFinder was called.
#pragma once

#include <string>

namespace llava_st {

// As an error of the plugin, in one line.
void log_error(const std::string& message) noexcept;

}  // namespace llava_st
