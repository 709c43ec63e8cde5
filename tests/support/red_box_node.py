"""Runs the node's ``main`` with the red-box backend, in a separate process."""

from __future__ import annotations

import sys
from pathlib import Path

# Without pytest, tests/ is not on the path.
sys.path.insert(0, str(Path(__file__).parents[1]))
from llava_st_ros.ros.main import main
from support.red_box_backend import load_red_box

if __name__ == "__main__":
    sys.exit(main(load=load_red_box))
