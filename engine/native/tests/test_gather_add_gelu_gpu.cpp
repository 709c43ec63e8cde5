// The kernel on a GPU against the float64 reference. Skipped without a GPU.
#include <gtest/gtest.h>

#include <deque>

#include "device_memory.h"
#include "gather_add_gelu_cases.h"

namespace llava_st {
namespace {

class KernelOnGpu : public testing::TestWithParam<GatherAddGeluCase> {
 protected:
  void SetUp() override {
    if (const std::string missing = missing_gpu(); !missing.empty()) GTEST_SKIP() << missing;
  }
};

// A case's tensors in device memory, including their guards.
template <typename T>
struct OnDevice {
  GatherAddGeluData<T> data;
  std::deque<DeviceMemory<T>> terms;
  DeviceMemory<T> table, addend, output;
  DeviceMemory<std::int64_t> times;

  explicit OnDevice(const GatherAddGeluCase& c)
      : data(c),
        table(data.table.memory),
        addend(data.addend.memory),
        output(data.output.memory),
        times(data.times) {
    for (const auto& term : data.terms) terms.emplace_back(term.memory);
  }

  cudaError_t enqueue(cudaStream_t stream) {
    std::vector<const void*> addresses;  // not needed after the call
    for (std::size_t i = 0; i < terms.size(); ++i) {
      addresses.push_back(terms[i].data() + data.terms[i].begin);
    }
    return gather_add_gelu(data.sizes, ScalarOf<T>::kScalar, addresses.data(),
                           table.data() + data.table.begin, times.data(),
                           data.has_addend ? addend.data() + data.addend.begin : nullptr,
                           output.data() + data.output.begin, stream);
  }

  double error() {
    data.output.memory = output.read();
    return data.error();
  }
};

template <typename T>
void expect_close_on_gpu(const GatherAddGeluCase& c) {
  OnDevice<T> on_device(c);
  Stream stream;
  ASSERT_EQ(on_device.enqueue(stream.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_LE(on_device.error(), ScalarOf<T>::kTolerance);
}

TEST_P(KernelOnGpu, Float32) { expect_close_on_gpu<float>(GetParam()); }
TEST_P(KernelOnGpu, Float16) { expect_close_on_gpu<__half>(GetParam()); }
TEST_P(KernelOnGpu, Bfloat16) { expect_close_on_gpu<__nv_bfloat16>(GetParam()); }

TEST_P(KernelOnGpu, CanBeCapturedIntoAGraph) {
  OnDevice<__half> on_device(GetParam());
  Stream stream;
  const auto enqueue = [&] { return on_device.enqueue(stream.get()); };
  ASSERT_EQ(launch_captured(stream.get(), enqueue), cudaSuccess);
  EXPECT_LE(on_device.error(), ScalarOf<__half>::kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, KernelOnGpu, testing::ValuesIn(kGatherAddGeluCases),
                         [](const auto& info) { return info.param.name; });

// These return before a launch, so they need no GPU.
TEST(GatherAddGelu, DoesNothingWithoutFramesOrRows) {
  for (const GatherAddGeluSizes& sizes :
       {GatherAddGeluSizes{0, 729, 2048, 100}, GatherAddGeluSizes{5, 0, 8, 1}}) {
    EXPECT_EQ(gather_add_gelu(sizes, Scalar::kFloat16, nullptr, nullptr, nullptr, nullptr, nullptr,
                              nullptr),
              cudaSuccess);
  }
}

TEST(GatherAddGelu, RejectsUnsupportedSizes) {
  EXPECT_EQ(gather_add_gelu({1, 729, 2048, 0}, Scalar::kFloat16, nullptr, nullptr, nullptr, nullptr,
                            nullptr, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace llava_st
