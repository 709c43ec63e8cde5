"""Export a checkpoint to an engine directory: ONNX export, quantization, builds and checks."""
