"""Run the command llava-st where the packages of extras cannot be imported."""

from __future__ import annotations

RUN = """
import sys
for name in "torch transformers onnx onnxscript peft accelerate mujoco rclpy".split():
    sys.modules[name] = None  # its import raises ModuleNotFoundError
from llava_st_ros.cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
