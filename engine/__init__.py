"""The fast path: TensorRT engines, the plugin library and the session that runs them."""
