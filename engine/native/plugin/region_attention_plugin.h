// The ONNX node LlavaStRegionAttention of export/graphs/region_attention.py as a TensorRT plugin.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

namespace llava_st {

constexpr char kPluginName[] = "LlavaStRegionAttention";
constexpr char kPluginVersion[] = "1";
constexpr char kPluginNamespace[] = "org.llava_st";

struct RegionAttentionFields {
  std::int32_t spatial_region = 0;   // side, in tokens
  std::int32_t temporal_region = 0;  // length, in frames
  float epsilon = 0;                 // added to the variance
};

// query [F/t, h/s, w/s, H, E], key and value [F, h, w, E] -> output [F/t, h/s, w/s, H, E].
//
// Tensors have linear format and one type: float, half or bfloat16. The plugin needs no workspace
// and has no state besides its fields, so clones of it may run in any number of contexts and
// streams.
class RegionAttentionPlugin final : public nvinfer1::IPluginV3,
                                    public nvinfer1::IPluginV3OneCore,
                                    public nvinfer1::IPluginV3OneBuild,
                                    public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit RegionAttentionPlugin(const RegionAttentionFields& fields);

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return kPluginName; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override {
    return kPluginNamespace;
  }

  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                  const nvinfer1::DataType* inputs,
                                  std::int32_t input_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                               const nvinfer1::DimsExprs* shape_inputs,
                               std::int32_t shape_input_count, nvinfer1::DimsExprs* outputs,
                               std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t input_count,
                                 std::int32_t output_count) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                               std::int32_t input_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t output_count) noexcept override;
  const char* getTimingCacheID() noexcept override { return timing_cache_id_.c_str(); }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                             const nvinfer1::PluginTensorDesc* outputs,
                             std::int32_t output_count) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                       const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                       void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  const RegionAttentionFields fields_;
  const std::string timing_cache_id_;
  nvinfer1::PluginField serialized_[3];
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace llava_st
