"""Runs the node's ``main`` with a model that never returns: ``hung_node.py PLACE [arguments]``.

PLACE: ``load`` (in native code), or a method of the backend: ``encode_frame``, ``prefill``,
``extend``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

# Without pytest, tests/ is not on the path.
sys.path.insert(0, str(Path(__file__).parents[1]))

from llava_st_ros.ros.main import main


def hang(*_: Any) -> Any:
    threading.Event().wait()


def load_hung(parameters: Any) -> Any:
    from support.red_box_backend import load_red_box

    if place == "load":
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        print("loading", flush=True)
        libc.pthread_mutex_lock(mutex)  # never returns, not even for a signal
    model = load_red_box(parameters)
    setattr(model.backend, place, hang)
    return model


if __name__ == "__main__":
    place = sys.argv.pop(1)
    sys.exit(main(load=load_hung))
