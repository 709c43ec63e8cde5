#!/usr/bin/env bash
# torch's FlopCounterMode counts attention as 0 operations where a CPU runs its fused kernel.
#
# Versions: torch 2.13.0 (CPU), Python 3.10 to 3.12.
#
# Behavior: scaled_dot_product_attention dispatches to the fused CPU kernel by default, for which
# the counter has no formula: the total is 0 and there is no warning. With the "math" backend
# selected, the same call counts 4 * heads * queries * keys * head size, as two products should. A
# linear layer is counted either way.
#
# One would have guessed: attention is counted as on a GPU, whose fused kernels have formulas, or an
# operator without a formula is named.
#
# Where it matters: planning a training run or an engine by counted operations on a machine without
# a GPU. Of a transformer with long sequences the counter then sees the linear layers only.
#
# Output seen:
#   torch 2.13.0+cpu
#   attention: 0 by default, 2097152 with the math backend; expected 2097152
#   linear layer: 8192; expected 8192
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "torch==2.13.0" "numpy<3" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import warnings

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

HEADS, TOKENS, SIZE = 4, 64, 32
warnings.simplefilter("error")
print(f"torch {torch.__version__}")
states = torch.ones(1, HEADS, TOKENS, SIZE)
attend = torch.nn.functional.scaled_dot_product_attention


def counted(function) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


default = counted(lambda: attend(states, states, states))
with sdpa_kernel(SDPBackend.MATH):
    plain = counted(lambda: attend(states, states, states))
expected = 2 * 2 * HEADS * TOKENS * TOKENS * SIZE
print(f"attention: {default} by default, {plain} with the math backend; expected {expected}")
layer, batch = torch.nn.Linear(64, 32), torch.ones(2, 64)
linear = counted(lambda: layer(batch))
print(f"linear layer: {linear}; expected {2 * 2 * 64 * 32}")
assert plain == expected and linear == 2 * 2 * 64 * 32
assert default == 0, "the fused kernel is counted now"
PYTHON

"$work/venv/bin/python" "$work/probe.py"
