// Tests without a GPU: the reference against hand-computed values, the checks of sizes, and the
// kernel's source, run on the CPU, against the reference.
#include <gtest/gtest.h>

#include "gather_add_gelu_cases.h"
#include "kernels/gather_add_gelu.cuh"

namespace llava_st {
namespace {

TEST(Reference, MatchesHandComputedValues) {
  // Two frames of one token each, at times 1 and 0.
  const double first[] = {1, 2}, second[] = {-5, 0};
  const double* terms[] = {first, second};
  const double table[] = {4, 0.5, -1, -1};
  const std::int64_t times[] = {1, 0};
  double output[4];
  gather_add_gelu_reference({2, 1, 2, 2}, terms, table, times, nullptr, output);
  // GELU(0) = 0, GELU(1) = Phi(1), GELU(-1) = -Phi(-1), GELU(1/2), with Phi the normal CDF.
  const double expected[] = {0, 0.8413447460685429, -0.15865525393145707, 0.34573123063700656};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(output[i], expected[i], 1e-12) << i;
  const double addend[] = {1, -2, 1, 0.5};
  gather_add_gelu_reference({2, 1, 2, 2}, terms, table, times, addend, output);
  const double with_addend[] = {expected[1], expected[2], 0, expected[1]};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(output[i], with_addend[i], 1e-12) << i;
}

TEST(Sizes, UnsupportedOnesAreDescribedInOneLine) {
  for (const GatherAddGeluSizes& supported :
       {GatherAddGeluSizes{100, 729, 2048, 100}, GatherAddGeluSizes{0, 1, 1, 1},
        GatherAddGeluSizes{3, 0, 8, 1}}) {
    EXPECT_EQ(unsupported_reason(supported), "");
  }
  const std::pair<GatherAddGeluSizes, const char*> unsupported[] = {
      {{-1, 729, 2048, 100}, "frames is -1; expected 0 to 2147483647"},
      {{1, -1, 2048, 100}, "rows is -1; expected 0 to 1073741824"},
      {{1, 1, 0, 100}, "elements of a row is 0; expected 1 to 1073741824"},
      {{1, 1, 2048, 0}, "rows of the table is 0; expected 1 to 2147483647"},
      {{1, 1 << 20, 2048, 1}, "elements of a frame is 2147483648; expected 0 to 1073741824"},
  };
  for (const auto& [sizes, reason] : unsupported) EXPECT_EQ(unsupported_reason(sizes), reason);
}

template <typename T, bool kAligned>
void run_on_cpu(GatherAddGeluData<T>& data) {
  std::vector<const void*> terms;
  for (const auto& term : data.terms) terms.push_back(&term.memory[term.begin]);
  for (std::int64_t first = 0; first < data.sizes.frames; first += kMaxFramesPerLaunch) {
    const auto arguments = GatherAddGeluArguments::of(
        data.sizes, first, terms.data(), &data.table.memory[data.table.begin], data.times.data(),
        data.has_addend ? &data.addend.memory[data.addend.begin] : nullptr,
        &data.output.memory[data.output.begin]);
    const int threads = GatherAddGelu<T, kAligned>::threads(arguments.rows, arguments.columns);
    for (int frame = 0; frame < arguments.frames; ++frame) {
      // Including idle threads, as the last block has.
      for (int thread = 0; thread < threads + 31; ++thread) {
        GatherAddGelu<T, kAligned>::run(arguments, frame, thread);
      }
    }
  }
}

template <typename T>
void expect_close_on_cpu(const GatherAddGeluCase& c) {
  if ((c.sizes.columns | c.offset) % Vector<T>::kCount == 0) {
    GatherAddGeluData<T> data(c);
    run_on_cpu<T, true>(data);
    EXPECT_LE(data.error(), ScalarOf<T>::kTolerance);
  }
  GatherAddGeluData<T> data(c);
  run_on_cpu<T, false>(data);
  EXPECT_LE(data.error(), ScalarOf<T>::kTolerance);
}

class KernelOnCpu : public testing::TestWithParam<GatherAddGeluCase> {};

TEST_P(KernelOnCpu, Float32) { expect_close_on_cpu<float>(GetParam()); }
TEST_P(KernelOnCpu, Float16) { expect_close_on_cpu<__half>(GetParam()); }
TEST_P(KernelOnCpu, Bfloat16) { expect_close_on_cpu<__nv_bfloat16>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Shapes, KernelOnCpu, testing::ValuesIn(kGatherAddGeluCases),
                         [](const auto& info) { return info.param.name; });

TEST(GatherAddGelu, ClampsTimesToTheTable) {
  const GatherAddGeluCase c{"times", {4, 2, 16, 3}};
  GatherAddGeluData<float> data(c), expected(c);
  data.times = {-1, 3, INT64_MIN, INT64_MAX};
  expected.times = {0, 2, 0, 2};
  run_on_cpu<float, true>(data);
  run_on_cpu<float, true>(expected);
  for (std::int64_t i = 0; i < 4 * 2 * 16; ++i) {
    EXPECT_EQ(data.output.memory[data.output.begin + i],
              expected.output.memory[expected.output.begin + i]);
  }
}

}  // namespace
}  // namespace llava_st
