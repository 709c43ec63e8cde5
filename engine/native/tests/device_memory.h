// RAII wrappers of CUDA memory and streams for tests.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace llava_st {

// Says why no GPU is available; empty if one is.
inline std::string missing_gpu() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return std::string("no GPU: ") + cudaGetErrorString(error);
  return count == 0 ? "no GPU" : "";
}

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

template <typename T>
class DeviceMemory {
 public:
  explicit DeviceMemory(const std::vector<T>& values) : size_(values.size()) {
    check(cudaMalloc(&data_, size_ * sizeof(T)));
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;

  T* data() const { return static_cast<T*>(data_); }

  std::vector<T> read() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

// A stream that does not synchronize with the default stream.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Captures what ``enqueue`` enqueues on the stream into a CUDA graph, launches it once and waits.
// Returns the first error.
template <typename Enqueue>
cudaError_t launch_captured(cudaStream_t stream, const Enqueue& enqueue) {
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  if (error != cudaSuccess) return error;
  const cudaError_t enqueued = enqueue();
  cudaGraph_t graph;
  error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) return error;
  cudaGraphExec_t executable;
  error = enqueued == cudaSuccess ? cudaGraphInstantiate(&executable, graph, 0) : enqueued;
  cudaGraphDestroy(graph);
  if (error != cudaSuccess) return error;
  error = cudaGraphLaunch(executable, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  cudaGraphExecDestroy(executable);
  return error;
}

}  // namespace llava_st
