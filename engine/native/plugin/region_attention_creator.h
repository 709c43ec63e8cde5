// Creates the plugin from an ONNX node's attributes or from a serialized engine's fields.
#pragma once

#include "region_attention_plugin.h"

namespace llava_st {

class RegionAttentionCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // ``fields`` are spatial_region and temporal_region (int32) and epsilon (float32), of length 1.
  // Returns nullptr and logs one line if they are not, or if the kernel does not support them.
  nvinfer1::IPluginV3* createPlugin(const nvinfer1::AsciiChar* name,
                                    const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return kPluginName; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override {
    return kPluginNamespace;
  }
};

}  // namespace llava_st
