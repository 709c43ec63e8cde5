#!/usr/bin/env bash
# torch.onnx.export(dynamo=True) stores stack traces with absolute source paths in the ONNX file.
#
# Versions: torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, Python 3.10 to 3.12.
#
# Behavior: every node carries metadata_props, among them pkg.torch.onnx.stack_trace, with the file
# names, line numbers and source lines of the module that made it. verbose=False and a model in
# evaluation mode change nothing. Clearing metadata_props leaves a valid model with equal outputs.
#
# One would have guessed: an exported graph holds operators and weights, and two exports of the same
# code in different folders are equal.
#
# Where it matters: engines and models that are published contain paths of the build machine (user
# names among them) and lines of the source; checksums of exports differ between checkouts.
#
# Output seen:
#   torch 2.13.0+cpu, onnx 1.23.2
#   nodes with a stack trace: 2 of 2; the module's path is in the file: True
#   path left after clearing metadata_props: False, outputs equal: True
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "torch==2.13.0" 2>/dev/null
"$work/venv/bin/pip" install -qq "onnx==1.23.2" "onnxscript==0.7.2" "numpy<3" 2>/dev/null

cat >"$work/tiny_layer.py" <<'PYTHON'
import torch


class TinyLayer(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x * 2.0)
PYTHON
cat >"$work/probe.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from tiny_layer import TinyLayer

work = Path(sys.argv[1])
print(f"torch {torch.__version__}, onnx {onnx.__version__}")
example = (torch.ones(2, 3),)
torch.onnx.export(TinyLayer().eval(), example, work / "model.onnx", dynamo=True, verbose=False)
model = onnx.load(work / "model.onnx")
nodes = model.graph.node
traced = [n for n in nodes if any(p.key.endswith("stack_trace") for p in n.metadata_props)]
path = str(work / "tiny_layer.py").encode()
found = path in (work / "model.onnx").read_bytes()
print(f"nodes with a stack trace: {len(traced)} of {len(nodes)}; the module's path is in the file: {found}")

x = {model.graph.input[0].name: np.full((2, 3), 1.5, np.float32)}
before = ReferenceEvaluator(model).run(None, x)[0]
for node in nodes:
    del node.metadata_props[:]
left = path in model.SerializeToString()
equal = np.array_equal(before, ReferenceEvaluator(model).run(None, x)[0])
print(f"path left after clearing metadata_props: {left}, outputs equal: {equal}")
assert len(traced) == len(nodes) > 0 and found, "the exporter leaves the paths out now"
assert not left and equal
PYTHON

PYTHONPATH="$work" "$work/venv/bin/python" "$work/probe.py" "$work"
