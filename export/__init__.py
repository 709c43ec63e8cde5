"""From a checkpoint to engines: ONNX export, quantization, engine builds and their checks."""
