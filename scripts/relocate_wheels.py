"""Point the CMake files of the ROS wheels to this Python instead of that of their build machine.

The wheels contain absolute include folders of their build machine
(``/opt/python/cpXY-cpXY/include/pythonX.Y`` and its NumPy); CMake rejects targets whose include
folders do not exist. Running this twice has no further effect.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

NUMPY_INCLUDE = re.compile(
    r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/(?:_core|core)/include"
)
PYTHON_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")


def relocate(prefix: Path) -> int:
    """Rewrite ``prefix``/share/**/*.cmake; return the number of changed files."""
    include = sysconfig.get_paths()["include"]
    numpy_include = numpy.get_include()
    changed = 0
    for path in sorted((prefix / "share").rglob("*.cmake")):
        text = path.read_text(encoding="utf-8")
        moved = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
        moved = PYTHON_INCLUDE.sub(lambda _: include, moved)
        if moved != text:
            path.write_text(moved, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    sys.stdout.write(f"{relocate(Path(sys.prefix))} CMake files of the ROS wheels relocated\n")
