#include "region_attention_creator.h"

#include <cmath>
#include <cstring>
#include <new>

#include "kernels/region_attention.h"
#include "log.h"

namespace llava_st {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

const PluginField kFields[] = {
    PluginField("spatial_region", nullptr, PluginFieldType::kINT32, 1),
    PluginField("temporal_region", nullptr, PluginFieldType::kINT32, 1),
    PluginField("epsilon", nullptr, PluginFieldType::kFLOAT32, 1),
};
constexpr int kFieldCount = 3;
const PluginFieldCollection kCollection{kFieldCount, kFields};

// Reads the fields. Returns what is wrong with them, or an empty string.
std::string read(const PluginFieldCollection* given, RegionAttentionFields& fields) {
  if (given == nullptr || given->nbFields != kFieldCount) {
    return std::to_string(given == nullptr ? 0 : given->nbFields) + " fields; expected 3";
  }
  void* const places[] = {&fields.spatial_region, &fields.temporal_region, &fields.epsilon};
  for (int i = 0; i < kFieldCount; ++i) {
    const PluginField& expected = kFields[i];
    const PluginField* found = nullptr;
    for (int j = 0; j < kFieldCount; ++j) {
      const PluginField& field = given->fields[j];
      if (field.name != nullptr && std::strcmp(field.name, expected.name) == 0) found = &field;
    }
    if (found == nullptr) return std::string("no field ") + expected.name;
    if (found->type != expected.type || found->length != 1 || found->data == nullptr) {
      return std::string("field ") + expected.name + " is of another type; expected one " +
             (expected.type == PluginFieldType::kINT32 ? "int32" : "float32");
    }
    std::memcpy(places[i], found->data, 4);
  }
  if (!(fields.epsilon > 0) || !std::isfinite(fields.epsilon)) {
    return "epsilon is " + std::to_string(fields.epsilon) + "; expected more than 0";
  }
  // The grid is not known yet; sizes without tokens check the regions only.
  return unsupported_reason({0, 0, 0, 1, 1, fields.spatial_region, fields.temporal_region});
}

}  // namespace

nvinfer1::IPluginV3* RegionAttentionCreator::createPlugin(const nvinfer1::AsciiChar*,
                                                          const PluginFieldCollection* given,
                                                          nvinfer1::TensorRTPhase) noexcept {
  RegionAttentionFields fields;
  if (const std::string problem = read(given, fields); !problem.empty()) {
    log_error(std::string(kPluginName) + ": " + problem);
    return nullptr;
  }
  return new (std::nothrow) RegionAttentionPlugin(fields);
}

const PluginFieldCollection* RegionAttentionCreator::getFieldNames() noexcept {
  return &kCollection;
}

}  // namespace llava_st
