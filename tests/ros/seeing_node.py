"""The node's own main in a process of its own, with a backend that looks for a red rectangle."""

from __future__ import annotations

import sys
from pathlib import Path

# Beside this file and in tests/: a process of its own has no pytest to find them.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from seeing import load_seeing

from llava_st_ros.ros.node import main

if __name__ == "__main__":
    sys.exit(main(load=load_seeing))
