"""Places tracks in space by a camera's calibration and its registered depth images."""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image

from llava_st_ros.camera_geometry import (
    Calibration,
    CameraModel,
    DepthImage,
    UnlocatedError,
    locate,
    transformed,
)
from llava_st_ros.errors import ConfigError, FrameError, LlavaStError, one_line
from llava_st_ros.records import NANOSECONDS, Track, TrackState, to_nanoseconds
from llava_st_ros.ros import qos
from llava_st_ros.ros.calibrations import to_calibration
from llava_st_ros.ros.camera_sources import DepthSource
from llava_st_ros.ros.diagnostics import Reason, combine, make_status
from llava_st_ros.ros.image_subscription import ImageSubscription
from llava_st_ros.ros.log_throttle import LogThrottle
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.ros.target_frame import TargetFrame

MAX_MESSAGES = 1000  # depth images kept per camera, however small they are
GRACE_S = 10.0  # a depth image may be missing so long after images began to be kept
IDENTITY = (0.0, 0.0, 0.0, 1.0)
# What a track that is not placed counts as in diagnostics.
UNMATCHED = "without a depth image of its time"
UNUSABLE = "with an unusable calibration or depth image"
UNLOCATED = "without a place in space"


class UnmatchedError(UnlocatedError):
    """A track for whose image there is no depth image."""


@dataclass(frozen=True)
class PlacedTrack:
    """A track with a box in space.

    Attributes:
        track: The track.
        frame_id: The frame of the following values.
        center: Center of the box, meters.
        orientation: Of the box: a unit quaternion x, y, z, w.
        size: Extents of the box along its axes, meters.
    """

    track: Track
    frame_id: str
    center: tuple[float, float, float]
    orientation: tuple[float, float, float, float]
    size: tuple[float, float, float]


class DepthMessages:
    """The serialized depth images of one camera, bounded in memory; nothing while not ``kept``.

    For use by several threads.

    Args:
        max_bytes: Memory; the newest image is kept in any case.
        tolerance: Nanoseconds between an image and its depth image, included.
        reset: A stamp that is earlier than the newest by more than this many ns starts a new
            stream.
    """

    def __init__(self, max_bytes: int, tolerance: int, reset: int) -> None:
        self._max_bytes, self._tolerance, self._reset = max_bytes, tolerance, reset
        self._lock = threading.Lock()
        self._messages: deque[tuple[int, bytes]] = deque()  # in order of arrival
        self._bytes = 0
        self._newest: int | None = None  # the stamp of the last message, kept or not
        self._kept_since: float | None = None  # the monotonic clock's seconds
        self._dropped: int | None = None  # the newest stamp that was dropped for lack of room

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def nbytes(self) -> int:
        return self._bytes

    def keep(self, is_kept: bool) -> None:
        """Start or stop to keep messages; stopping drops those that there are."""
        with self._lock:
            if not is_kept:
                self._kept_since = None
                self._clear()
            elif self._kept_since is None:
                self._kept_since = time.monotonic()

    def add(self, stamp: int, message: bytes) -> bool:
        """Add a message; return whether its stamp starts a new stream, also while none is kept."""
        with self._lock:
            newest, self._newest = self._newest, stamp
            is_reset = newest is not None and stamp < newest - self._reset
            if self._kept_since is None:
                return is_reset
            if is_reset:
                self._clear()
            self._messages.append((stamp, message))
            self._bytes += len(message)
            while len(self._messages) > 1 and (
                self._bytes > self._max_bytes or len(self._messages) > MAX_MESSAGES
            ):
                dropped, old = self._messages.popleft()
                self._bytes -= len(old)
                self._dropped = dropped if self._dropped is None else max(self._dropped, dropped)
            return is_reset

    def nearest(self, stamp: int) -> tuple[int, bytes] | None:
        """Return the message nearest to a stamp, within the tolerance; of two the earlier one."""
        with self._lock:
            found = min(
                self._messages, key=lambda entry: (abs(entry[0] - stamp), entry[0]), default=None
            )
        return found if found is not None and abs(found[0] - stamp) <= self._tolerance else None

    def is_dropped(self, stamp: int) -> bool:
        """Whether images of this time were dropped for lack of room."""
        with self._lock:
            return self._dropped is not None and stamp <= self._dropped + self._tolerance

    @property
    def has_just_started(self) -> bool:
        """Whether images have been kept for so short a time that one may be missing."""
        since = self._kept_since
        return since is None or time.monotonic() - since < GRACE_S

    def _clear(self) -> None:
        self._messages.clear()
        self._bytes, self._dropped = 0, None


class DepthCamera:
    """The depth images and the calibration of one camera, from construction to ``destroy``.

    Args:
        node: The node that subscribes.
        source: The camera and its topics.
        reliability: The parameter ``image_reliability``, for the depth images.
        messages: Where the depth images are kept.
        target: The frame to transform to.
        throttle: Limits the warnings about tracks that are not placed.
    """

    def __init__(
        self,
        node: Node,
        source: DepthSource,
        reliability: str,
        messages: DepthMessages,
        target: TargetFrame,
        throttle: LogThrottle,
    ) -> None:
        self.name = source.name
        self._source, self._messages, self._target = source, messages, target
        self._throttle = throttle
        self._lock = threading.Lock()  # of the counts
        self._counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._received = self._placed = 0
        self._last_problem = ""
        self._info: bytes | None = None  # the newest CameraInfo
        # The latest one that was used, and the message that it is from.
        self._camera: tuple[bytes, Calibration, CameraModel] | None = None
        self._depth = ImageSubscription(
            node, Image, source.depth_topic, reliability, self._on_depth, raw=True
        )
        # Small, and sometimes published once.
        self._infos = ImageSubscription(
            node, CameraInfo, source.info_topic, qos.AUTO, self._on_info, raw=True, latched=True
        )

    def keep(self, is_kept: bool) -> None:
        """Start or stop to keep depth images."""
        self._messages.keep(is_kept)

    def place(self, tracks: Sequence[Track]) -> list[PlacedTrack]:
        """Place tracks in space; those for which that fails are counted and left out.

        A LOST track is not placed: its object may be anywhere.
        """
        placed: list[PlacedTrack] = []
        images: dict[int, DepthImage | LlavaStError] = {}  # by stamp
        for track in tracks:
            if track.state is TrackState.LOST:
                continue
            try:
                placed.append(self._place(track, images))
            except UnmatchedError as error:
                if self._messages.has_just_started:
                    self._count(UNMATCHED)
                else:
                    self._report(UNMATCHED, str(error))
            except UnlocatedError as error:
                self._report(UNLOCATED, str(error))
            except (ConfigError, FrameError) as error:
                self._report(UNUSABLE, str(error))
            except Exception as error:  # e.g. OpenCV rejects a calibration
                self._report(UNUSABLE, one_line(error))
        with self._lock:
            self._placed += len(placed)
        return placed

    def status(self, node_name: str) -> DiagnosticStatus:
        """Follow the publishers, and return the state for /diagnostics.

        WARN if tracks were not placed since the last call, or if a topic has no publisher.
        """
        for subscription in (self._depth, self._infos):
            subscription.refresh()
        with self._lock:
            counts, reported = Counter(self._counts), self._reported
            self._reported, problem = Counter(counts), self._last_problem
            received, placed = self._received, self._placed
        reasons = [
            Reason(DiagnosticStatus.WARN, f"no publisher of {subscription.topic}")
            for subscription in (self._depth, self._infos)
            if not subscription.publisher_count
        ]
        if new := (counts - reported).total():
            reasons.append(Reason(DiagnosticStatus.WARN, f"{new} tracks not placed: {problem}"))
        level, message = combine(reasons, f"{placed} tracks placed")
        return make_status(
            f"{node_name}: depth {self.name}",
            level,
            message,
            {
                "depth topic": self._depth.topic,
                "camera info topic": self._infos.topic,
                "frame of the boxes": self._target.name or "the camera's",
                "depth images received": received,
                "depth images kept": len(self._messages),
                "memory of depth images (MiB)": f"{self._messages.nbytes / 2**20:.1f}",
                "tracks placed": placed,
                **{f"tracks {key}": counts[key] for key in (UNMATCHED, UNUSABLE, UNLOCATED)},
                "last problem": problem or "none",
            },
        )

    def destroy(self) -> None:
        self._depth.destroy()
        self._infos.destroy()
        self._messages.keep(False)

    def _on_depth(self, message: bytes) -> None:
        self._received += 1
        if self._messages.add(stamp_of(message), message):
            self._target.clear()

    def _on_info(self, message: bytes) -> None:
        self._info = message

    def _place(self, track: Track, images: dict[int, DepthImage | LlavaStError]) -> PlacedTrack:
        camera = self._camera_model()
        camera.check_size(track.width, track.height)
        depth = self._depth_image(track, images)
        box = locate(track.box, depth, camera)
        if not self._target.name:
            return PlacedTrack(track, track.frame_id, box.center, IDENTITY, box.size)
        rotation, translation = self._target.lookup(track.frame_id, track.stamp)
        center = transformed(box.center, rotation, translation)
        return PlacedTrack(track, self._target.name, center, rotation, box.size)

    def _camera_model(self) -> CameraModel:
        message, known = self._info, self._camera
        if message is None:
            raise ConfigError(f"no CameraInfo has arrived on {self._infos.topic}")
        if known is not None and known[0] is message:
            return known[2]
        calibration = to_calibration(deserialize_message(message, CameraInfo))
        if known is not None and known[1] == calibration:
            camera = known[2]
        else:
            camera = CameraModel(calibration, is_rectified=self._source.is_rectified)
        self._camera = message, calibration, camera
        return camera

    def _depth_image(
        self, track: Track, images: dict[int, DepthImage | LlavaStError]
    ) -> DepthImage:
        found = self._messages.nearest(track.stamp)
        if found is None:
            if self._messages.is_dropped(track.stamp):
                raise UnmatchedError(
                    f"the depth image of {self._depth.topic} at the time of the track's image is "
                    "not kept any more",
                    "raise depth_megabytes",
                )
            raise UnmatchedError(
                f"no depth image on {self._depth.topic} is near the time of the track's image"
            )
        stamp, message = found
        if stamp not in images:
            try:
                images[stamp] = to_depth_image(deserialize_message(message, Image))
            except FrameError as error:
                images[stamp] = error
        image = images[stamp]
        if isinstance(image, LlavaStError):
            raise image
        height, width = image.pixels.shape
        if (width, height) != (track.width, track.height):
            raise FrameError(
                f"the depth image is {width}x{height}, but the image is "
                f"{track.width}x{track.height}",
                "use depth that is registered to the image",
            )
        return image

    def _count(self, kind: str) -> None:
        """Count a track whose failure is expected."""
        with self._lock:
            self._counts[kind] += 1
            self._reported[kind] += 1

    def _report(self, kind: str, problem: str) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._last_problem = problem
        self._throttle.warning(
            f"depth {self.name} {kind}", f"no 3D box on camera {self.name!r}: {problem}"
        )


class DepthCameras:
    """All cameras with depth, and the frame of their boxes; from construction to ``destroy``.

    Args:
        node: The node that subscribes.
        parameters: The node's parameters.
        throttle: Limits the warnings about tracks that are not placed.
    """

    def __init__(self, node: Node, parameters: NodeParameters, throttle: LogThrottle) -> None:
        sources = parameters.depth_sources(node)
        self._node = node
        self._target = TargetFrame(node, parameters.target_frame if sources else "")
        if self._target.problem:
            node.get_logger().warning(self._target.problem)
        self._cameras: dict[str, DepthCamera] = {}
        try:
            for source in sources:
                self._cameras[source.name] = DepthCamera(
                    node,
                    source,
                    parameters.image_reliability,
                    DepthMessages(
                        parameters.depth_megabytes * 2**20,
                        to_nanoseconds(parameters.depth_tolerance),
                        to_nanoseconds(parameters.reset_seconds),
                    ),
                    self._target,
                    throttle,
                )
        except BaseException:
            self.destroy()  # else the subscriptions remain
            raise

    def get(self, camera: str) -> DepthCamera | None:
        """Return a camera; None if it has no depth."""
        return self._cameras.get(camera)

    def statuses(self) -> Iterator[DiagnosticStatus]:
        """Yield the state of each camera for /diagnostics."""
        name = self._node.get_fully_qualified_name()
        for camera in tuple(self._cameras.values()):
            yield camera.status(name)

    def reasons(self) -> Iterator[Reason]:
        """Yield why the boxes are not as requested."""
        if self._target.problem:
            yield Reason(DiagnosticStatus.WARN, self._target.problem)

    def destroy(self) -> None:
        cameras, self._cameras = self._cameras, {}
        for camera in cameras.values():
            camera.destroy()
        self._target.destroy()


def stamp_of(message: bytes) -> int:
    """Return the stamp in ns of a serialized message that begins with a header.

    CDR: four bytes, of which the second has the byte order, then the first field.
    """
    seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
    return int(seconds * NANOSECONDS + nanoseconds)


def to_depth_image(message: Image) -> DepthImage:
    """View the pixels of a depth image. Raises FrameError."""
    return DepthImage.from_buffer(
        message.data,
        message.encoding,
        message.width,
        message.height,
        message.step,
        big_endian=bool(message.is_bigendian),
    )
