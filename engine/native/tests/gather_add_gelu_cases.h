// Test cases of gather_add_gelu: inputs and the float64 reference, for the CPU and the GPU tests.
#pragma once

#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

#include "guarded.h"
#include "kernels/gather_add_gelu.h"
#include "kernels/gather_add_gelu_reference.h"

namespace llava_st {

struct GatherAddGeluCase {
  const char* name;
  GatherAddGeluSizes sizes;
  bool addend = false;
  std::int64_t offset = 0;  // offset of each tensor's first element, in elements
};

inline std::ostream& operator<<(std::ostream& out, const GatherAddGeluCase& c) {
  return out << c.name;
}

// frames, rows, columns, table_rows.
inline const GatherAddGeluCase kGatherAddGeluCases[] = {
    {"7B_tokens", {2, 27, 2048, 100}},
    {"7B_packed", {3, 9, 4096, 100}, true},
    {"tiny_tokens", {5, 14, 384, 20}},
    {"tiny_packed", {5, 6, 768, 20}, true},
    {"odd_row", {3, 5, 37, 4}, true},
    {"half_a_vector_over", {2, 7, 76, 3}, true},
    {"one_element", {4, 1, 1, 1}, true},
    {"unaligned", {2, 6, 64, 5}, true, 1},
    {"more_than_a_launch", {1003, 3, 16, 7}, true},
};

template <typename T>
class GatherAddGeluData {
 public:
  explicit GatherAddGeluData(const GatherAddGeluCase& c)
      : sizes(c.sizes),
        has_addend(c.addend),
        table(sizes.table_rows * sizes.columns, c.offset),
        addend(c.addend ? output_size() : 0, c.offset),
        output(output_size(), c.offset) {
    std::mt19937 random(7);
    std::normal_distribution<double> normal(0, 2);
    const auto fill = [&](Guarded<T>& tensor, std::int64_t size) {
      std::vector<double> values(size);
      for (std::int64_t i = 0; i < size; ++i) {
        const T x = ScalarOf<T>::from(normal(random));
        tensor.memory[tensor.begin + i] = x;
        values[i] = ScalarOf<T>::to(x);
      }
      return values;
    };
    std::vector<std::vector<double>> exact_terms;
    std::vector<const double*> starts;
    for (std::int64_t frame = 0; frame < sizes.frames; ++frame) {
      terms.emplace_back(sizes.rows * sizes.columns, c.offset);
      exact_terms.push_back(fill(terms.back(), sizes.rows * sizes.columns));
      starts.push_back(exact_terms.back().data());
      times.push_back((7 * frame + sizes.table_rows - 1) % sizes.table_rows);
    }
    const std::vector<double> exact_table = fill(table, sizes.table_rows * sizes.columns);
    const std::vector<double> exact_addend = fill(addend, c.addend ? output_size() : 0);
    reference_.resize(output_size());
    gather_add_gelu_reference(sizes, starts.data(), exact_table.data(), times.data(),
                              c.addend ? exact_addend.data() : nullptr, reference_.data());
  }

  double error() const { return output.error(reference_); }

  GatherAddGeluSizes sizes;
  bool has_addend;
  std::vector<Guarded<T>> terms;
  Guarded<T> table;
  std::vector<std::int64_t> times;
  Guarded<T> addend, output;

 private:
  std::int64_t output_size() const { return sizes.frames * sizes.rows * sizes.columns; }

  std::vector<double> reference_;
};

}  // namespace llava_st
