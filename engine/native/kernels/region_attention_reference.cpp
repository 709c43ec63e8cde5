#include "region_attention_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace llava_st {
namespace {

// A row scaled to mean 0 and variance 1.
std::vector<double> normalized(const double* row, std::int64_t embed_dim, double epsilon) {
  double mean = 0, variance = 0;
  for (std::int64_t i = 0; i < embed_dim; ++i) mean += row[i] / embed_dim;
  for (std::int64_t i = 0; i < embed_dim; ++i)
    variance += (row[i] - mean) * (row[i] - mean) / embed_dim;
  std::vector<double> result(row, row + embed_dim);
  for (double& x : result) x = (x - mean) / std::sqrt(variance + epsilon);
  return result;
}

}  // namespace

void region_attention_reference(const RegionAttentionSizes& sizes, double epsilon,
                                const double* query, const double* key, const double* value,
                                double* output) {
  const std::int64_t s = sizes.spatial_region, t = sizes.temporal_region,
                     embed_dim = sizes.embed_dim;
  const GridStrides strides = contiguous(sizes);
  for (std::int64_t frame = 0; frame < sizes.frames; frame += t) {
    for (std::int64_t row = 0; row < sizes.height; row += s) {
      for (std::int64_t column = 0; column < sizes.width; column += s) {
        std::vector<std::vector<double>> keys, values;
        for (std::int64_t f = frame; f < frame + t; ++f) {
          for (std::int64_t y = row; y < row + s; ++y) {
            for (std::int64_t x = column; x < column + s; ++x) {
              const std::int64_t token = f * strides.frame + y * strides.row + x * strides.token;
              keys.push_back(normalized(key + token, embed_dim, epsilon));
              values.push_back(normalized(value + token, embed_dim, epsilon));
            }
          }
        }
        for (std::int64_t head = 0; head < sizes.heads;
             ++head, query += embed_dim, output += embed_dim) {
          std::vector<double> weights;
          for (const auto& k : keys) {
            double score = 0;
            for (std::int64_t i = 0; i < embed_dim; ++i) score += query[i] * k[i];
            weights.push_back(score);
          }
          const double max = *std::max_element(weights.begin(), weights.end());
          double sum = 0;
          for (double& weight : weights) sum += weight = std::exp(weight - max);
          std::fill(output, output + embed_dim, 0.0);
          for (std::size_t k = 0; k < values.size(); ++k) {
            for (std::int64_t i = 0; i < embed_dim; ++i)
              output[i] += weights[k] / sum * values[k][i];
          }
        }
      }
    }
  }
}

}  // namespace llava_st
