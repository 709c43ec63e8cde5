"""The model's parts as modules that are written for export to ONNX."""
