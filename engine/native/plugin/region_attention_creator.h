// Makes the plugin, of a node's attributes or of an engine's bytes: both are the same fields.
#pragma once

#include "region_attention_plugin.h"

namespace llava_st {

class RegionAttentionCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // nullptr, and one logged line, unless the fields are spatial_region and temporal_region (one
  // int32 each) and epsilon (one float32), once each, with values that the kernel takes.
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
