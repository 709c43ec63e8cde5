"""Paths of the checkout and its stored test data."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "released-a"  # a parity case of the published code
RED_BOX_NODE = ROOT / "tests" / "support" / "red_box_node.py"  # runs the node, as a process
