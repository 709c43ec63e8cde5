"""Transforms from the cameras' frames to one frame of the robot, where tf2_ros is installed."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from llava_st_ros.camera_geometry import UnlocatedError
from llava_st_ros.errors import reason_of

Rotation = tuple[float, float, float, float]  # a unit quaternion: x, y, z, w
Translation = tuple[float, float, float]  # meters


class TargetFrame:
    """Listens to /tf and /tf_static from construction to ``destroy``.

    Args:
        node: The node that subscribes.
        name: The frame to transform to; empty for none.

    Attributes:
        name: The frame; empty if there is none or tf2_ros is missing.
        problem: Why there are no transforms although they were requested; else empty.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.name, self.problem = "", ""
        self._buffer: Any = None
        self._listener: Any = None
        if not name:
            return
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except Exception as error:  # ImportError, or whatever a damaged package raises
            self.problem = (
                f"target_frame is {name!r}, but tf2_ros is not installed ({reason_of(error)}): 3D "
                "boxes are in the cameras' frames"
            )
            return
        self.name, self._failure = name, tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def lookup(self, source: str, stamp: int) -> tuple[Rotation, Translation]:
        """Return the transform from ``source`` at a time in ns, without waiting for it.

        Raises:
            UnlocatedError: It is not known.
        """
        try:
            found = self._buffer.lookup_transform(self.name, source, Time(nanoseconds=stamp))
        except self._failure as error:
            raise UnlocatedError(
                f"no transform from {source!r} to {self.name!r}: {reason_of(error)}"
            ) from error
        turn, move = found.transform.rotation, found.transform.translation
        return (turn.x, turn.y, turn.z, turn.w), (move.x, move.y, move.z)

    def clear(self) -> None:
        """Forget all transforms: the time has jumped back."""
        if self._buffer is not None:
            self._buffer.clear()

    def destroy(self) -> None:
        if self._listener is not None:
            self._listener.unregister()
        self._listener = None
