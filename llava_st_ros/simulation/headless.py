"""MuJoCo without a display. Import ``mujoco`` from here, never directly.

``import mujoco`` loads the OpenGL platform named in MUJOCO_GL and fails when it is missing. This
module imports it without OpenGL, so that ``gl_context`` can try several platforms.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from llava_st_ros.errors import BackendError

PLATFORMS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa"}
_requested = os.environ.get("MUJOCO_GL", "").lower() or "egl"

os.environ["MUJOCO_GL"] = "disable"
import mujoco  # noqa: E402

os.environ["MUJOCO_GL"] = _requested

__all__ = ["gl_context", "mujoco"]


def gl_context(size: int) -> Any:
    """Create an OpenGL context and make it current.

    Tries the platform in MUJOCO_GL (default egl), then OSMesa.

    Args:
        size: Width and height of the framebuffer in pixels.

    Raises:
        BackendError: No platform works; the message has the reason of each.
    """
    reasons = []
    for name in dict.fromkeys((os.environ["MUJOCO_GL"], "osmesa")):
        if name not in PLATFORMS:
            reasons.append(f"{name}: not a headless platform")
            continue
        # PyOpenGL binds to one platform on import: unload it before trying the next one.
        for module in [m for m in sys.modules if m.split(".")[0] == "OpenGL"]:
            del sys.modules[module]
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = name
        try:
            context = importlib.import_module(PLATFORMS[name]).GLContext(size, size)
            context.make_current()
            return context
        except Exception as error:  # each platform raises its own exception types
            reasons.append(f"{name}: {type(error).__name__} {error}")
    raise BackendError(
        f"no headless OpenGL: {'; '.join(reasons)}",
        "install libegl1 and libgl1-mesa-dri, or libosmesa6",
    )
