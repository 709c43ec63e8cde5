"""The TensorRT runtime: engine files, the plugin library, and the sessions that run them."""
