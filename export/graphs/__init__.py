"""The model's parts as modules that export to ONNX."""
