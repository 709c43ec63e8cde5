// The two entry points that TensorRT requires of a plugin library; nothing else is exported.
#include <NvInferRuntime.h>

#include <atomic>
#include <cstdio>

#include "log.h"
#include "region_attention_creator.h"

#if NV_TENSORRT_MAJOR < 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR < 3)
#error "TensorRT 10.3 or newer is required"
#endif

namespace {

// Set by TensorRT, once for the library. Execution contexts share nothing else.
std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void llava_st::log_error(const std::string& message) noexcept {
  const std::string line = "[LLaVA-ST plugin] " + message;
  nvinfer1::ILoggerFinder* finder = logger_finder;
  if (nvinfer1::ILogger* logger = finder == nullptr ? nullptr : finder->findLogger()) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

// TENSORRTAPI sets the visibility only in TensorRT's own libraries.
#pragma GCC visibility push(default)

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static llava_st::RegionAttentionCreator region_attention;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&region_attention};
  count = 1;
  return creators;
}

#pragma GCC visibility pop
