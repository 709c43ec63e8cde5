// The kernel on a GPU against the float64 reference. Skipped without a GPU.
#include <gtest/gtest.h>

#include "device_memory.h"
#include "region_attention_cases.h"

namespace llava_st {
namespace {

class KernelOnGpu : public testing::TestWithParam<RegionAttentionCase> {
 protected:
  void SetUp() override {
    if (const std::string missing = missing_gpu(); !missing.empty()) GTEST_SKIP() << missing;
  }
};

// A case's tensors in device memory, including their guards.
template <typename T>
struct OnDevice {
  RegionAttentionData<T> data;
  DeviceMemory<T> query, key, value, output;

  explicit OnDevice(const RegionAttentionCase& c)
      : data(c),
        query(data.query.memory),
        key(data.key.memory),
        value(data.value.memory),
        output(data.output.memory) {}

  cudaError_t enqueue(cudaStream_t stream) {
    return region_attention(
        data.sizes, data.kEpsilon, ScalarOf<T>::kScalar, query.data() + data.query.begin,
        data.query_strides, key.data() + data.key.begin, data.strides,
        value.data() + data.value.begin, data.strides, output.data() + data.output.begin, stream);
  }

  double error() {
    data.output.memory = output.read();
    return data.error();
  }
};

template <typename T>
void expect_close_on_gpu(const RegionAttentionCase& c) {
  OnDevice<T> on_device(c);
  Stream stream;
  ASSERT_EQ(on_device.enqueue(stream.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_LE(on_device.error(), tolerance<T>(c));
}

TEST_P(KernelOnGpu, Float32) { expect_close_on_gpu<float>(GetParam()); }
TEST_P(KernelOnGpu, Float16) { expect_close_on_gpu<__half>(GetParam()); }
TEST_P(KernelOnGpu, Bfloat16) { expect_close_on_gpu<__nv_bfloat16>(GetParam()); }

TEST_P(KernelOnGpu, CanBeCapturedIntoAGraph) {
  OnDevice<__half> on_device(GetParam());
  Stream stream;
  const auto enqueue = [&] { return on_device.enqueue(stream.get()); };
  ASSERT_EQ(launch_captured(stream.get(), enqueue), cudaSuccess);
  EXPECT_LE(on_device.error(), tolerance<__half>(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, KernelOnGpu, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// These return before a launch, so they need no GPU.
TEST(RegionAttention, DoesNothingForAGridWithoutTokens) {
  for (const RegionAttentionSizes& sizes : {RegionAttentionSizes{0, 3, 3, 16, 1024, 3, 1},
                                            RegionAttentionSizes{5, 0, 3, 16, 1024, 1, 5}}) {
    EXPECT_EQ(region_attention(sizes, 1e-5f, Scalar::kFloat16, nullptr, nullptr, {}, nullptr, {},
                               nullptr, nullptr),
              cudaSuccess);
  }
}

TEST(RegionAttention, RejectsUnsupportedSizes) {
  const auto enqueue = [](const RegionAttentionSizes& sizes, float epsilon) {
    return region_attention(sizes, epsilon, Scalar::kFloat16, nullptr, nullptr, {}, nullptr, {},
                            nullptr, nullptr);
  };
  EXPECT_EQ(enqueue({1, 3, 3, 17, 1024, 3, 1}, 1e-5f), cudaErrorInvalidValue);
  EXPECT_EQ(enqueue({1, 3, 3, 16, 1024, 3, 1}, 0), cudaErrorInvalidValue);
  EXPECT_EQ(enqueue({1, 3, 3, 16, 1024, 3, 1}, std::nanf("")), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace llava_st
