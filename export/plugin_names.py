"""Names of the packer's region attention as an ONNX node and as a TensorRT plugin."""

from __future__ import annotations

DOMAIN, NAME, VERSION = "org.llava_st", "LlavaStRegionAttention", 1
# Node attributes by which TensorRT's parser finds the plugin creator.
PLUGIN = {"plugin_version": str(VERSION), "plugin_namespace": DOMAIN}
