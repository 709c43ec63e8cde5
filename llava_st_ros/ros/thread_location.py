"""Where a thread is, for messages about threads that do not end."""

from __future__ import annotations

import os
import sys
import threading


def location_of(thread: threading.Thread) -> str:
    """Return the innermost line that a thread is executing, outside ``threading``; or ""."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_filename == threading.__file__:
        frame = frame.f_back  # a wait: the code that waits is of interest
    if frame is None:
        return ""
    name = os.path.basename(frame.f_code.co_filename)
    return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
