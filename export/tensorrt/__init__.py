"""TensorRT engines: supported operators, optimization profiles, builds."""
