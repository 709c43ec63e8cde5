// The plugin's lifecycle, called as TensorRT does, through the library's two entry points. Only
// tests that run the kernel need a GPU.
#include <NvInferRuntime.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device_memory.h"
#include "region_attention_cases.h"

#pragma GCC visibility push(default)
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);
#pragma GCC visibility pop

namespace llava_st {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

class RecordingLogger : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
    EXPECT_EQ(severity, Severity::kERROR);
    lines.emplace_back(message);
  }
  nvinfer1::ILogger* findLogger() override { return this; }

  std::vector<std::string> lines;
};

// A node's attributes, as the ONNX parser passes them.
struct Attributes {
  std::int32_t spatial_region = 3, temporal_region = 1;
  float epsilon = 1e-5f;
  std::vector<PluginField> fields{
      {"spatial_region", &spatial_region, PluginFieldType::kINT32, 1},
      {"temporal_region", &temporal_region, PluginFieldType::kINT32, 1},
      {"epsilon", &epsilon, PluginFieldType::kFLOAT32, 1},
  };

  PluginFieldCollection collection() const {
    return {static_cast<std::int32_t>(fields.size()), fields.data()};
  }
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

template <typename Capability>
Capability& capability(nvinfer1::IPluginV3& plugin, PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

nvinfer1::IPluginV3OneBuild& build(const Plugin& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
}

nvinfer1::IPluginV3OneRuntime& runtime(const Plugin& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(*plugin, PluginCapabilityType::kRUNTIME);
}

// Query, key, value and output of the 7B model's first packer.
std::vector<PluginTensorDesc> descs(std::int64_t frames = 4, DataType type = DataType::kHALF) {
  const auto tensor = [type](const Dims& dims) {
    return PluginTensorDesc{dims, type, TensorFormat::kLINEAR, 1.0f};
  };
  const Dims query{5, {frames, 9, 9, 16, 1024}}, grid{4, {frames, 27, 27, 1024}};
  return {tensor(query), tensor(grid), tensor(grid), tensor(query)};
}

std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc>& descs) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> result;
  for (const PluginTensorDesc& desc : descs) {
    result.push_back({desc, desc.dims, desc.dims, desc.dims});
    result.back().desc.dims.d[0] = -1;
  }
  return result;
}

class PluginLifecycle : public testing::Test {
 protected:
  void SetUp() override {
    setLoggerFinder(&logger_);
    std::int32_t count = 0;
    auto* const* creators = getCreators(count);
    ASSERT_EQ(count, 1);
    ASSERT_STREQ(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE");
    creator_ = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
  }
  void TearDown() override { setLoggerFinder(nullptr); }

  Plugin create(const PluginFieldCollection& fields, TensorRTPhase phase = TensorRTPhase::kBUILD) {
    return Plugin(creator_->createPlugin("node", &fields, phase));
  }

  // Expects exactly one logged line since the last call, which contains ``text``.
  void expect_logged(const std::string& text) {
    ASSERT_EQ(logger_.lines.size(), 1u) << text;
    EXPECT_NE(logger_.lines[0].find("LlavaStRegionAttention: " + text), std::string::npos)
        << logger_.lines[0];
    logger_.lines.clear();
  }

  RecordingLogger logger_;
  nvinfer1::IPluginCreatorV3One* creator_ = nullptr;
};

TEST_F(PluginLifecycle, IsNamedAsTheNode) {
  EXPECT_STREQ(creator_->getPluginName(), "LlavaStRegionAttention");
  EXPECT_STREQ(creator_->getPluginVersion(), "1");
  EXPECT_STREQ(creator_->getPluginNamespace(), "org.llava_st");
  const Plugin plugin = create(Attributes().collection());
  const auto& core = capability<nvinfer1::IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE);
  EXPECT_STREQ(core.getPluginName(), "LlavaStRegionAttention");
  EXPECT_STREQ(core.getPluginVersion(), "1");
  EXPECT_STREQ(core.getPluginNamespace(), "org.llava_st");
  const Attributes attributes;
  const PluginFieldCollection& names = *creator_->getFieldNames();
  ASSERT_EQ(names.nbFields, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_STREQ(names.fields[i].name, attributes.fields[i].name);
    EXPECT_EQ(names.fields[i].type, attributes.fields[i].type);
  }
}

TEST_F(PluginLifecycle, InvalidFieldsAreRejectedAndNamed) {
  const auto rejected = [&](auto change, const std::string& text) {
    Attributes attributes;
    change(attributes);
    EXPECT_EQ(create(attributes.collection()), nullptr) << text;
    expect_logged(text);
  };
  rejected([](Attributes& a) { a.fields.pop_back(); }, "2 fields; expected 3");
  rejected([](Attributes& a) { a.fields.push_back(a.fields[0]); }, "4 fields; expected 3");
  rejected([](Attributes& a) { a.fields[2].name = "eps"; }, "no field epsilon");
  rejected([](Attributes& a) { a.fields[0] = a.fields[1]; }, "no field spatial_region");
  rejected([](Attributes& a) { a.fields[0].type = PluginFieldType::kINT64; },
           "field spatial_region is of another type; expected one int32");
  rejected([](Attributes& a) { a.fields[1].length = 2; },
           "field temporal_region is of another type; expected one int32");
  rejected([](Attributes& a) { a.fields[2].data = nullptr; },
           "field epsilon is of another type; expected one float32");
  rejected([](Attributes& a) { a.spatial_region = 0; }, "spatial_region is 0");
  rejected([](Attributes& a) { a.temporal_region = 2; }, "tokens of a region is 18");
  rejected([](Attributes& a) { a.epsilon = 0; }, "epsilon is 0");
  rejected([](Attributes& a) { a.epsilon = INFINITY; }, "epsilon is inf");
  EXPECT_EQ(creator_->createPlugin("node", nullptr, TensorRTPhase::kBUILD), nullptr);
  expect_logged("0 fields; expected 3");
}

// Expressions are TensorRT's; a plugin that creates none only needs to compare their addresses.
class Expression : public nvinfer1::IDimensionExpr {};
class Expressions : public nvinfer1::IExprBuilder {};

TEST_F(PluginLifecycle, OutputHasTheQuerysShapeAndType) {
  const Plugin plugin = create(Attributes().collection());
  EXPECT_EQ(build(plugin).getNbOutputs(), 1);
  const DataType types[] = {DataType::kBF16, DataType::kBF16, DataType::kBF16};
  DataType type{};
  EXPECT_EQ(build(plugin).getOutputDataTypes(&type, 1, types, 3), 0);
  EXPECT_EQ(type, DataType::kBF16);

  Expression sizes[9];
  Expressions builder;
  nvinfer1::DimsExprs inputs[3] = {};
  inputs[0].nbDims = 5;
  inputs[1].nbDims = inputs[2].nbDims = 4;
  for (int i = 0; i < 5; ++i) inputs[0].d[i] = &sizes[i];
  for (int i = 0; i < 4; ++i) inputs[1].d[i] = inputs[2].d[i] = &sizes[5 + i];
  nvinfer1::DimsExprs output{};
  EXPECT_EQ(build(plugin).getOutputShapes(inputs, 3, nullptr, 0, &output, 1, builder), 0);
  ASSERT_EQ(output.nbDims, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(output.d[i], &sizes[i]);

  inputs[2].nbDims = 5;
  EXPECT_NE(build(plugin).getOutputShapes(inputs, 3, nullptr, 0, &output, 1, builder), 0);
  expect_logged("expected a query of 5 dimensions, key and value of 4");
  EXPECT_NE(build(plugin).getOutputShapes(inputs, 2, nullptr, 0, &output, 1, builder), 0);
  expect_logged("expected 3 inputs, 1 output");
}

TEST_F(PluginLifecycle, TakesLinearTensorsOfOneFloatingType) {
  const Plugin plugin = create(Attributes().collection());
  const auto supported = [&](int position, DataType first, DataType type, TensorFormat format) {
    auto tensors = dynamic(descs(4, first));
    tensors[position].desc.type = type;
    tensors[position].desc.format = format;
    return build(plugin).supportsFormatCombination(position, tensors.data(), 3, 1);
  };
  const DataType floats[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
  const DataType others[] = {DataType::kINT8, DataType::kINT32, DataType::kFP8, DataType::kBOOL};
  for (int position = 0; position < 4; ++position) {
    for (const DataType type : floats) {
      EXPECT_TRUE(supported(position, type, type, TensorFormat::kLINEAR));
      EXPECT_FALSE(supported(position, type, type, TensorFormat::kHWC8));
      for (const DataType other : floats) {
        if (other == type || position == 0) continue;
        EXPECT_FALSE(supported(position, other, type, TensorFormat::kLINEAR));
      }
    }
    for (const DataType type : others) {
      EXPECT_FALSE(supported(position, type, type, TensorFormat::kLINEAR));
    }
  }
}

TEST_F(PluginLifecycle, ChecksTheProfile) {
  const Plugin plugin = create(Attributes().collection());
  auto tensors = dynamic(descs());
  EXPECT_EQ(build(plugin).configurePlugin(tensors.data(), 3, &tensors[3], 1), 0);
  EXPECT_EQ(build(plugin).getWorkspaceSize(tensors.data(), 3, &tensors[3], 1), 0u);
  EXPECT_EQ(build(plugin).getNbTactics(), 0);
  EXPECT_STREQ(build(plugin).getTimingCacheID(), "3x1");
  tensors[0].max.d[3] = 17;
  EXPECT_NE(build(plugin).configurePlugin(tensors.data(), 3, &tensors[3], 1), 0);
  expect_logged("heads is 17; expected 1 to 16");
}

TEST_F(PluginLifecycle, SurvivesSerialization) {
  Attributes attributes;
  attributes.spatial_region = 1;
  attributes.temporal_region = 5;
  attributes.epsilon = 2.5e-6f;
  const Plugin built = create(attributes.collection());
  const Plugin cloned(built->clone());
  const PluginFieldCollection& fields = *runtime(cloned).getFieldsToSerialize();
  // An engine file stores bytes: the plugin that they came from no longer exists.
  std::vector<std::string> bytes;
  std::vector<PluginField> read;
  for (int i = 0; i < fields.nbFields; ++i) {
    bytes.emplace_back(static_cast<const char*>(fields.fields[i].data), 4);
  }
  for (int i = 0; i < fields.nbFields; ++i) {
    read.push_back(fields.fields[i]);
    read.back().data = bytes[i].data();
  }
  const Plugin again = create({fields.nbFields, read.data()}, TensorRTPhase::kRUNTIME);
  const PluginFieldCollection& kept = *runtime(again).getFieldsToSerialize();
  ASSERT_EQ(kept.nbFields, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_STREQ(kept.fields[i].name, attributes.fields[i].name);
    EXPECT_EQ(kept.fields[i].type, attributes.fields[i].type);
    EXPECT_EQ(kept.fields[i].length, 1);
    EXPECT_EQ(std::memcmp(kept.fields[i].data, attributes.fields[i].data, 4), 0);
  }
  EXPECT_STREQ(build(again).getTimingCacheID(), "1x5");
}

TEST_F(PluginLifecycle, ClonesOutliveEachOther) {
  Plugin plugin = create(Attributes().collection());
  const Plugin clone(plugin->clone());
  const Plugin attached(runtime(plugin).attachToContext(nullptr));
  EXPECT_NE(attached.get(), plugin.get());
  plugin.reset();
  for (const Plugin& left : {std::cref(clone), std::cref(attached)}) {
    const PluginField& field = runtime(left).getFieldsToSerialize()->fields[0];
    EXPECT_EQ(*static_cast<const std::int32_t*>(field.data), 3);
    EXPECT_STREQ(build(left).getTimingCacheID(), "3x1");
  }
}

TEST_F(PluginLifecycle, InconsistentShapesAreRejected) {
  const Plugin plugin = create(Attributes().collection());
  const Plugin attached(runtime(plugin).attachToContext(nullptr));
  auto good = descs();
  EXPECT_EQ(runtime(attached).onShapeChange(good.data(), 3, &good[3], 1), 0);
  good = descs(0);
  EXPECT_EQ(runtime(attached).onShapeChange(good.data(), 3, &good[3], 1), 0);
  EXPECT_TRUE(logger_.lines.empty());

  const auto rejected = [&](auto change, const std::string& text) {
    auto bad = descs();
    change(bad);
    EXPECT_NE(runtime(attached).onShapeChange(bad.data(), 3, &bad[3], 1), 0) << text;
    expect_logged(text);
    EXPECT_NE(runtime(attached).enqueue(bad.data(), &bad[3], nullptr, nullptr, nullptr, nullptr),
              0);
    expect_logged(text);
  };
  using Descs = std::vector<PluginTensorDesc>;
  rejected([](Descs& d) { d[1].dims.nbDims = 5; },
           "query [4, 9, 9, 16, 1024] and key [4, 27, 27, 1024, ");
  rejected([](Descs& d) { d[2].dims.d[0] = 5; }, "value [5, 27, 27, 1024]; expected key's");
  rejected([](Descs& d) { d[1].dims.d[1] = d[2].dims.d[1] = 28; },
           "height is 28; expected a multiple");
  rejected([](Descs& d) { d[0].dims.d[2] = 8; },
           "query [4, 9, 8, 16, 1024]; expected [4, 9, 9, 16, 1024]");
  rejected([](Descs& d) { d[3].dims.d[4] = 512; }, "output [4, 9, 9, 16, 512]; expected query's");
  rejected([](Descs& d) { d[2].type = DataType::kFLOAT; }, "the tensors' types; expected float");
  rejected(
      [](Descs& d) {
        for (auto& each : d) each.type = DataType::kINT8;
      },
      "the tensors' types");
}

// A case's tensors in device memory with their descriptions, as TensorRT passes them.
struct BoundTensors {
  RegionAttentionData<__half> data;
  DeviceMemory<__half> query, key, value, output;
  std::vector<PluginTensorDesc> descs;

  explicit BoundTensors(const RegionAttentionCase& c)
      : data(c),
        query(data.query.memory),
        key(data.key.memory),
        value(data.value.memory),
        output(data.output.memory) {
    const RegionAttentionSizes& s = data.sizes;
    const Dims point{5,
                     {s.frames / s.temporal_region, s.height / s.spatial_region,
                      s.width / s.spatial_region, s.heads, s.embed_dim}};
    const Dims grid{4, {s.frames, s.height, s.width, s.embed_dim}};
    for (const Dims& dims : {point, grid, grid, point}) {
      descs.push_back({dims, DataType::kHALF, TensorFormat::kLINEAR, 1.0f});
    }
  }

  std::int32_t enqueue(const Plugin& plugin, cudaStream_t stream) {
    const void* inputs[] = {query.data() + data.query.begin, key.data() + data.key.begin,
                            value.data() + data.value.begin};
    void* outputs[] = {output.data() + data.output.begin};
    return runtime(plugin).enqueue(descs.data(), &descs[3], inputs, outputs, nullptr, stream);
  }

  double error() {
    data.output.memory = output.read();
    return data.error();
  }
};

TEST_F(PluginLifecycle, TwoContextsRunOnSeparateStreams) {
  if (const std::string missing = missing_gpu(); !missing.empty()) GTEST_SKIP() << missing;
  const Plugin plugin = create(Attributes().collection());
  const Plugin first(runtime(plugin).attachToContext(nullptr));
  const Plugin second(runtime(plugin).attachToContext(nullptr));
  BoundTensors large({"large", {8, 27, 27, 16, 1024, 3, 1}}),
      small({"small", {2, 6, 3, 8, 192, 3, 1}});
  Stream one, two;
  // Twice each: a run must not depend on the state that the one before left.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(large.enqueue(first, one.get()), 0);
    EXPECT_EQ(small.enqueue(second, two.get()), 0);
  }
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_LE(large.error(), ScalarOf<__half>::kTolerance);
  EXPECT_LE(small.error(), ScalarOf<__half>::kTolerance);
}

}  // namespace
}  // namespace llava_st
