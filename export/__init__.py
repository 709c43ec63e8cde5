"""From a checkpoint to engines: ONNX export, quantisation, engine builds and their checks."""
