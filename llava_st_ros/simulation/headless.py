"""MuJoCo without a display: import ``mujoco`` from here, never directly.

Left to itself, ``import mujoco`` loads the OpenGL of MUJOCO_GL and fails where that is missing.
Here it loads none, so that ``gl_context`` can try one after the other.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from llava_st_ros.errors import BackendError

_PLATFORMS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa"}
_asked = os.environ.get("MUJOCO_GL", "").lower() or "egl"

os.environ["MUJOCO_GL"] = "disable"
import mujoco  # noqa: E402

os.environ["MUJOCO_GL"] = _asked

__all__ = ["gl_context", "mujoco"]


def gl_context(size: int) -> Any:
    """A current OpenGL context: of the platform in MUJOCO_GL (default egl), else of OSMesa.

    Raises BackendError with every platform's reason when none works.
    """
    reasons = []
    for name in dict.fromkeys((os.environ["MUJOCO_GL"], "osmesa")):
        if name not in _PLATFORMS:
            reasons.append(f"{name}: not a headless platform")
            continue
        # PyOpenGL binds to one platform when first imported: forget one that failed.
        for module in [m for m in sys.modules if m.split(".")[0] == "OpenGL"]:
            del sys.modules[module]
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = name
        try:
            context = importlib.import_module(_PLATFORMS[name]).GLContext(size, size)
            context.make_current()
            return context
        except Exception as error:  # each platform fails with classes of its own
            reasons.append(f"{name}: {type(error).__name__} {error}")
    raise BackendError(
        f"no headless OpenGL ({'; '.join(reasons)}); expected a working EGL or OSMesa",
        "install libegl1 and libgl1-mesa-dri, or libosmesa6",
    )
