"""Language grounding for robots: LLaVA-ST as a streaming ROS 2 node.

The public API is imported on first use, so that ``import llava_st_ros`` loads no other module.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_st_ros.backends import load_backend
    from llava_st_ros.config import GrounderConfig, StreamConfig
    from llava_st_ros.errors import LlavaStError
    from llava_st_ros.grounder import Grounder
    from llava_st_ros.records import (
        Box,
        BoxTube,
        EndReason,
        Event,
        EventState,
        Frame,
        Grounding,
        Query,
        Segment,
        Span,
        Task,
        Tick,
        Track,
        TrackState,
    )

# The generated interfaces (llava_st_ros.msg, .srv, .action) belong to this package but are in
# another folder when it is imported from a checkout or a pip install.
__path__ = extend_path(__path__, __name__)

__version__ = "0.2.0"

__all__ = [
    "Box",
    "BoxTube",
    "EndReason",
    "Event",
    "EventState",
    "Frame",
    "Grounder",
    "GrounderConfig",
    "Grounding",
    "LlavaStError",
    "Query",
    "Segment",
    "Span",
    "StreamConfig",
    "Task",
    "Tick",
    "Track",
    "TrackState",
    "load_backend",
]

_MODULES = {  # those of the names in __all__ that are not in records
    "Grounder": "grounder",
    "GrounderConfig": "config",
    "LlavaStError": "errors",
    "StreamConfig": "config",
    "load_backend": "backends",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'records')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
