#include "region_attention_plugin.h"

#include <algorithm>
#include <new>
#include <optional>

#include "kernels/region_attention.h"
#include "log.h"

namespace llava_st {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kInputs = 3, kQueryRank = 5, kGridRank = 4;

std::int32_t fail(const std::string& message) noexcept {
  log_error(std::string(kPluginName) + ": " + message);
  return -1;
}

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (int i = 0; i < dims.nbDims; ++i) text += (i ? ", " : "") + std::to_string(dims.d[i]);
  return text + "]";
}

bool equal(const Dims& a, const Dims& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
}

std::optional<Scalar> scalar_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return Scalar::kFloat32;
    case DataType::kHALF:
      return Scalar::kFloat16;
    case DataType::kBF16:
      return Scalar::kBfloat16;
    default:
      return std::nullopt;
  }
}

// Requires a query of rank 5 and a key of rank 4.
RegionAttentionSizes sizes_of(const RegionAttentionFields& fields, const Dims& query,
                              const Dims& key) {
  return {key.d[0],
          key.d[1],
          key.d[2],
          query.d[3],
          key.d[3],
          fields.spatial_region,
          fields.temporal_region};
}

// Returns a one-line description of what is wrong with the tensors; empty if nothing is.
std::string unsupported_reason(const RegionAttentionFields& fields, const PluginTensorDesc* inputs,
                               const PluginTensorDesc& output) {
  const Dims &query = inputs[0].dims, &key = inputs[1].dims, &value = inputs[2].dims;
  if (query.nbDims != kQueryRank || key.nbDims != kGridRank) {
    return "query " + to_string(query) + " and key " + to_string(key) +
           "; expected [F/t, h/s, w/s, H, E] and [F, h, w, E]";
  }
  if (!equal(value, key)) return "value " + to_string(value) + "; expected key's " + to_string(key);
  const RegionAttentionSizes sizes = sizes_of(fields, query, key);
  if (std::string problem = unsupported_reason(sizes); !problem.empty()) return problem;
  const Dims expected{kQueryRank,
                      {sizes.frames / sizes.temporal_region, sizes.height / sizes.spatial_region,
                       sizes.width / sizes.spatial_region, sizes.heads, sizes.embed_dim}};
  if (!equal(query, expected))
    return "query " + to_string(query) + "; expected " + to_string(expected);
  if (!equal(output.dims, query)) {
    return "output " + to_string(output.dims) + "; expected query's " + to_string(query);
  }
  const auto same = [&](const PluginTensorDesc& tensor) { return tensor.type == inputs[0].type; };
  if (!scalar_of(inputs[0].type) || !std::all_of(inputs, inputs + kInputs, same) || !same(output)) {
    return "the tensors' types; expected float, half or bfloat16, the same for all";
  }
  return {};
}

}  // namespace

RegionAttentionPlugin::RegionAttentionPlugin(const RegionAttentionFields& fields)
    : fields_(fields),
      timing_cache_id_(std::to_string(fields.spatial_region) + "x" +
                       std::to_string(fields.temporal_region)),
      serialized_{
          PluginField("spatial_region", &fields_.spatial_region, PluginFieldType::kINT32, 1),
          PluginField("temporal_region", &fields_.temporal_region, PluginFieldType::kINT32, 1),
          PluginField("epsilon", &fields_.epsilon, PluginFieldType::kFLOAT32, 1)},
      collection_{3, serialized_} {}

nvinfer1::IPluginCapability* RegionAttentionPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* RegionAttentionPlugin::clone() noexcept {
  return new (std::nothrow) RegionAttentionPlugin(fields_);
}

std::int32_t RegionAttentionPlugin::getOutputDataTypes(DataType* outputs, std::int32_t output_count,
                                                       const DataType* inputs,
                                                       std::int32_t input_count) const noexcept {
  if (input_count != kInputs || output_count != 1) return fail("expected 3 inputs, 1 output");
  outputs[0] = inputs[0];
  return 0;
}

std::int32_t RegionAttentionPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs,
                                                    std::int32_t input_count,
                                                    const nvinfer1::DimsExprs*, std::int32_t,
                                                    nvinfer1::DimsExprs* outputs,
                                                    std::int32_t output_count,
                                                    nvinfer1::IExprBuilder&) noexcept {
  if (input_count != kInputs || output_count != 1) return fail("expected 3 inputs, 1 output");
  if (inputs[0].nbDims != kQueryRank || inputs[1].nbDims != kGridRank ||
      inputs[2].nbDims != kGridRank) {
    return fail("expected a query of 5 dimensions, key and value of 4");
  }
  outputs[0] = inputs[0];
  return 0;
}

bool RegionAttentionPlugin::supportsFormatCombination(
    std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
    std::int32_t input_count, std::int32_t output_count) noexcept {
  if (input_count != kInputs || output_count != 1 || position < 0 || position > kInputs) {
    return false;
  }
  const PluginTensorDesc& tensor = tensors[position].desc;
  return tensor.format == nvinfer1::TensorFormat::kLINEAR && scalar_of(tensor.type) &&
         tensor.type == tensors[0].desc.type;
}

std::int32_t RegionAttentionPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                                    std::int32_t input_count,
                                                    const nvinfer1::DynamicPluginTensorDesc*,
                                                    std::int32_t output_count) noexcept {
  if (input_count != kInputs || output_count != 1) return fail("expected 3 inputs, 1 output");
  // A profile gives only bounds of the grid; onShapeChange checks the grid itself.
  RegionAttentionSizes sizes = sizes_of(fields_, inputs[0].max, inputs[1].max);
  sizes.frames = sizes.height = sizes.width = 0;
  const std::string problem = llava_st::unsupported_reason(sizes);
  return problem.empty() ? 0 : fail(problem);
}

std::int32_t RegionAttentionPlugin::onShapeChange(const PluginTensorDesc* inputs,
                                                  std::int32_t input_count,
                                                  const PluginTensorDesc* outputs,
                                                  std::int32_t output_count) noexcept {
  if (input_count != kInputs || output_count != 1) return fail("expected 3 inputs, 1 output");
  const std::string problem = unsupported_reason(fields_, inputs, outputs[0]);
  return problem.empty() ? 0 : fail(problem);
}

std::int32_t RegionAttentionPlugin::enqueue(const PluginTensorDesc* input_descs,
                                            const PluginTensorDesc* output_descs,
                                            const void* const* inputs, void* const* outputs, void*,
                                            cudaStream_t stream) noexcept {
  if (onShapeChange(input_descs, kInputs, output_descs, 1) != 0) return -1;
  const RegionAttentionSizes sizes = sizes_of(fields_, input_descs[0].dims, input_descs[1].dims);
  const GridStrides strides = contiguous(sizes);
  const cudaError_t error =
      region_attention(sizes, fields_.epsilon, *scalar_of(input_descs[0].type), inputs[0],
                       inputs[1], strides, inputs[2], strides, outputs[0], stream);
  return error == cudaSuccess ? 0 : fail(cudaGetErrorString(error));
}

const nvinfer1::PluginFieldCollection* RegionAttentionPlugin::getFieldsToSerialize() noexcept {
  return &collection_;
}

}  // namespace llava_st
