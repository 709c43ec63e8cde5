#!/usr/bin/env bash
# Importing onnxruntime.quantization.matmul_nbits_quantizer reconfigures the root logger.
#
# Versions: onnxruntime 1.31.1, onnx 1.23.2, Python 3.11 or 3.12.
#
# Behavior: the module calls logging.basicConfig at import, so that a program without handlers gets
# a stderr handler with another format and the root level INFO. Any library's INFO lines appear from
# then on.
#
# One would have guessed: importing a library configures no logging; only running it as a script does.
#
# Where it matters: a command-line tool or a node that imports the quantizer on first use starts to
# print other libraries' INFO lines, in the middle of its own output. Save and restore the root
# logger's level and handlers around the import.
#
# Output seen:
#   onnxruntime 1.31.1
#   before: level WARNING, 0 handlers; after: level INFO, 1 handler
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "onnxruntime==1.31.1" "onnx==1.23.2" "onnx-ir" "numpy<3" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import logging
from importlib.metadata import version

root = logging.getLogger()
print("onnxruntime", version("onnxruntime"))
level, handlers = logging.getLevelName(root.level), len(root.handlers)
import onnxruntime.quantization.matmul_nbits_quantizer  # noqa: E402, F401

after, more = logging.getLevelName(root.level), len(root.handlers)
print(f"before: level {level}, {handlers} handlers; after: level {after}, {more} handler")
assert (level, handlers) == ("WARNING", 0)
assert more > handlers or after != level, "the import leaves logging alone now"
PYTHON

"$work/venv/bin/python" "$work/probe.py"
