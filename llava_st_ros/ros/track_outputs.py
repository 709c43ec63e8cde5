"""Publishes tracks in the messages of other packages: see ``output_kinds``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from llava_st_ros.errors import BackendError, one_line
from llava_st_ros.records import Track
from llava_st_ros.ros import detection_messages, drawing_messages, qos
from llava_st_ros.ros.camera_sources import topic_part
from llava_st_ros.ros.depth_camera import DepthCamera, PlacedTrack
from llava_st_ros.ros.diagnostics import Reason
from llava_st_ros.ros.output_kinds import OutputKind, Selection

# Converts tracks of one camera, given the module of the messages and the array's header. The tracks
# are Tracks or, where the output needs depth, PlacedTracks.
Convert = Callable[[Any, Sequence[Any], Header], Any]
CONVERTERS: Mapping[str, Convert] = {
    "detections": detection_messages.detections_2d,
    "annotations": drawing_messages.image_annotations,
    "image_markers": drawing_messages.image_marker,
    "detections_3d": detection_messages.detections_3d,
    "markers": drawing_messages.markers_3d,
}


class TrackOutputs:
    """The optional outputs of all cameras, from construction to ``destroy``.

    A message is made only while its topic has a subscriber; one that joins gets the last tracks.
    May be used by any thread. Silent unless the node is active.

    Args:
        node: The node that publishes.
        cameras: Names of all cameras.
        selection: The outputs.
        depth_names: Names of the cameras with depth.
        get_depth: Returns a camera's depth; None if it has none now.
    """

    def __init__(
        self,
        node: LifecycleNode,
        cameras: Sequence[str],
        selection: Selection,
        depth_names: Collection[str] = (),
        get_depth: Callable[[str], DepthCamera | None] = lambda camera: None,
    ) -> None:
        self._node, self._get_depth = node, get_depth
        self._lock = threading.RLock()  # for all messages
        self._last: dict[str, tuple[Sequence[Track], Header]] = {}  # by camera
        self._publishers: dict[str, list[tuple[OutputKind, Any, Any]]] = {}
        for camera in cameras:
            kinds = [
                (kind, types)
                for kind, types in selection.kinds
                if camera in depth_names or not kind.needs_depth
            ]
            self._publishers[camera] = [
                (kind, types, publisher)
                for kind, types in kinds
                if (publisher := self._publisher(kind, types, camera, cameras)) is not None
            ]
        self._joins = qos.JoinedSubscribers(
            (publisher, partial(self._repeat, camera, kind.name))
            for camera, outputs in self._publishers.items()
            for kind, _, publisher in outputs
        )

    def publish(self, camera: str, tracks: Sequence[Track], header: Header) -> None:
        """Publish the tracks of a camera, as on the topic ``tracks``.

        Args:
            camera: The camera.
            tracks: Its tracks; may be empty.
            header: That of the message on ``tracks``.

        Raises:
            BackendError: An output could not be published; the others were.
        """
        with self._lock:
            if camera in self._publishers:
                self._last[camera] = tracks, header
            self._publish(camera, tracks, header)

    def _publish(
        self, camera: str, tracks: Sequence[Track], header: Header, only: str = ""
    ) -> None:
        problems: list[str] = []
        viewed = [
            (kind, types, publisher)
            for kind, types, publisher in self._publishers.get(camera, ())
            if publisher.get_subscription_count()
        ]
        wanted = [entry for entry in viewed if only in ("", entry[0].name)]
        placed: list[PlacedTrack] = []
        depth = self._get_depth(camera)
        if depth is not None:  # else the node is not active any more
            depth.keep(bool(tracks) and any(kind.needs_depth for kind, _, _ in viewed))
            if any(kind.needs_depth for kind, _, _ in wanted):
                placed = depth.place(tracks)
        frame_id = placed[0].frame_id if placed else header.frame_id
        placed_header = Header(stamp=header.stamp, frame_id=frame_id)
        for kind, types, publisher in wanted:
            entries, top = (placed, placed_header) if kind.needs_depth else (tracks, header)
            try:
                publisher.publish(CONVERTERS[kind.name](types, entries, top))
            except Exception as error:  # e.g. a message of a version that is not known
                problems.append(f"{kind.package}/{kind.message}: {one_line(error)}")
        if problems:
            raise BackendError("; ".join(problems))

    def reset(self) -> None:
        """Forget the last tracks: a new stream starts."""
        with self._lock:
            self._last.clear()

    def refresh(self) -> None:
        """Notice subscribers that rclpy does not report (in Humble). Call it regularly."""
        self._joins.refresh()

    def has_subscriber(self, camera: str) -> bool:
        """Whether anybody has subscribed to an output of a camera."""
        outputs = self._publishers.get(camera, ())
        return any(publisher.get_subscription_count() for _, _, publisher in outputs)

    def destroy(self) -> None:
        for outputs in self._publishers.values():
            for _, _, publisher in outputs:
                self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def _repeat(self, camera: str, name: str) -> None:
        """Publish the last tracks on one topic, which has a new subscriber."""
        with self._lock:
            if camera in self._last:
                self._publish(camera, *self._last[camera], only=name)

    def _publisher(
        self, kind: OutputKind, types: Any, camera: str, cameras: Sequence[str]
    ) -> Any | None:
        """Create a publisher; None, with a warning, if the package is damaged."""
        topic = camera_topic(kind.name, camera, cameras)
        joined = partial(self._repeat, camera, kind.name)
        events = qos.publisher_events(self._node, topic, qos.RESULTS, joined)
        try:
            return self._node.create_lifecycle_publisher(
                getattr(types, kind.message), topic, qos.RESULTS, event_callbacks=events
            )
        except Exception as error:  # e.g. its type support does not fit this RMW implementation
            self._node.get_logger().warning(
                f"{topic} cannot be published: {kind.package}: {one_line(error)}"
            )
            return None


def camera_topic(name: str, camera: str, cameras: Sequence[str]) -> str:
    """Return ``~/name``, followed by the camera's name if there are several cameras.

    The camera's name is changed where topics cannot have it: see ``topic_part``.
    """
    return f"~/{name}" if len(cameras) == 1 else f"~/{name}/{topic_part(camera)}"


def missing_reasons(selection: Selection) -> Iterator[Reason]:
    """Yield a warning for each package that was requested and is missing."""
    if selection.is_requested:
        for line in selection.missing:
            yield Reason(DiagnosticStatus.WARN, line)
