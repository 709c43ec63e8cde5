// Tests without a GPU: the reference against hand-computed values, the checks of sizes, and the
// kernel's source, run on the CPU, against the reference.
#include <gtest/gtest.h>

#include <cstring>

#include "emulated_block.h"
#include "kernels/region_attention.cuh"
#include "region_attention_cases.h"

namespace llava_st {
namespace {

TEST(Reference, MatchesHandComputedValues) {
  // Rows of two elements are normalized to -1, 1: tokens (3, 1) and (0, 2) to (1, -1) and (-1, 1).
  const double key[] = {3, 1, 0, 2}, value[] = {5, 7, 9, 1};
  // The first head's scores are 0 and 0, the second's ln 3 / 2 and -ln 3 / 2: weights 3/4 and 1/4.
  const double query[] = {1, 1, std::log(3.0) / 2, 0};
  double output[4];
  region_attention_reference({2, 1, 1, 2, 2, 1, 2}, 0, query, key, value, output);
  const double expected[] = {0, 0, -0.5, 0.5};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(output[i], expected[i], 1e-12) << i;
}

TEST(Reference, ReadsTheTokensOfItsRegion) {
  // A grid of two regions of 2 x 2: values that differ by region, and a query that picks one token.
  const RegionAttentionSizes sizes{1, 2, 4, 1, 2, 2, 1};
  std::vector<double> key(16), value(16), query(4), output(4);
  for (int token = 0; token < 8; ++token) {
    const bool picked = token == 5 || token == 2;  // row 1 of the left, row 0 of the right region
    key[2 * token] = picked ? 1 : -1;
    value[2 * token] = token == 5 ? 1 : -1;
    value[2 * token + 1] = -value[2 * token];
  }
  query = {50, -50, 50, -50};
  region_attention_reference(sizes, 0, query.data(), key.data(), value.data(), output.data());
  const double expected[] = {1, -1, -1, 1};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(output[i], expected[i], 1e-12) << i;
}

TEST(Sizes, UnsupportedOnesAreDescribedInOneLine) {
  const RegionAttentionSizes good{100, 27, 27, 16, 1024, 3, 1};
  EXPECT_EQ(unsupported_reason(good), "");
  EXPECT_EQ(good.regions(), 8100);
  EXPECT_EQ(unsupported_reason({0, 27, 27, 16, 1024, 3, 1}), "");
  const std::pair<RegionAttentionSizes, const char*> unsupported[] = {
      {{100, 27, 27, 17, 1024, 3, 1}, "heads is 17; expected 1 to 16"},
      {{100, 27, 27, 16, 1025, 3, 1}, "elements of a row is 1025; expected 1 to 1024"},
      {{100, 27, 27, 16, 0, 3, 1}, "elements of a row is 0; expected 1 to 1024"},
      {{100, 27, 27, 16, 1024, 0, 1}, "spatial_region is 0; expected 1 to 16"},
      {{100, 27, 27, 16, 1024, 3, -1}, "temporal_region is -1; expected 1 to 16"},
      {{100, 27, 27, 16, 1024, 3, 2}, "tokens of a region is 18; expected 1 to 16"},
      {{-1, 27, 27, 16, 1024, 3, 1}, "frames is -1; expected 0 to 2147483647"},
      {{101, 27, 27, 16, 1024, 1, 5}, "frames is 101; expected a multiple of 5, the region's"},
      {{100, 28, 27, 16, 1024, 3, 1}, "height is 28; expected a multiple of 3, the region's"},
      {{100, 27, 26, 16, 1024, 3, 1}, "width is 26; expected a multiple of 3, the region's"},
      {{1 << 30, 2, 1, 16, 1024, 1, 1}, "regions are more than 2147483647"},
      {{1 << 30, 1 << 30, 1 << 30, 16, 1024, 1, 1}, "regions are more than 2147483647"},
  };
  for (const auto& [sizes, reason] : unsupported) EXPECT_EQ(unsupported_reason(sizes), reason);
}

template <typename T, int kRegion, bool kAligned>
double error_on_cpu(const RegionAttentionCase& c) {
  using Block = RegionBlock<T, kRegion, kAligned>;
  RegionAttentionData<T> data(c);
  const Arguments arguments(data.sizes, data.kEpsilon, &data.query.memory[data.query.begin],
                            data.query_strides, &data.key.memory[data.key.begin], data.strides,
                            &data.value.memory[data.value.begin], data.strides,
                            &data.output.memory[data.output.begin]);
  const int threads = Block::threads(arguments.embed_dim);
  EXPECT_LE(threads, Block::kMaxThreads);
  for (int region = 0; region < data.sizes.regions(); ++region) {
    typename Block::Shared shared;
    std::memset(&shared, 0xff, sizeof shared);  // NaN: shared memory is not initialized
    EmulatedBlock::run(threads, region % 2 == 1,
                       [&](int thread) { Block::run(arguments, region, thread, threads, shared); });
  }
  return data.error();
}

template <typename T>
void expect_close_on_cpu(const RegionAttentionCase& c) {
  const double tolerated = tolerance<T>(c);
  const std::int64_t region = c.sizes.region();
  if ((c.sizes.embed_dim | c.padding | c.offset) % Vector<T>::kCount == 0) {
    if (region <= 5) {
      EXPECT_LE((error_on_cpu<T, 5, true>(c)), tolerated);
    }
    if (region <= 9) {
      EXPECT_LE((error_on_cpu<T, 9, true>(c)), tolerated);
    }
    EXPECT_LE((error_on_cpu<T, kMaxRegion, true>(c)), tolerated);
  }
  EXPECT_LE((error_on_cpu<T, kMaxRegion, false>(c)), tolerated);
}

class KernelOnCpu : public testing::TestWithParam<RegionAttentionCase> {};

TEST_P(KernelOnCpu, Float32) { expect_close_on_cpu<float>(GetParam()); }
TEST_P(KernelOnCpu, Float16) { expect_close_on_cpu<__half>(GetParam()); }
TEST_P(KernelOnCpu, Bfloat16) { expect_close_on_cpu<__nv_bfloat16>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Shapes, KernelOnCpu, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace llava_st
