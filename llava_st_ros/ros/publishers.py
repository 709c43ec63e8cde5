"""Publishes tracks, events, answers and the overlay, with the stamps of their images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage

from llava_st_ros import msg
from llava_st_ros.errors import BackendError
from llava_st_ros.media.overlay import draw
from llava_st_ros.records import (
    NANOSECONDS,
    BoxTube,
    Event,
    EventState,
    Frame,
    Grounding,
    Tick,
    Track,
    TrackState,
)
from llava_st_ros.ros import conversions, qos
from llava_st_ros.ros.camera_sources import topic_part
from llava_st_ros.ros.deadline import Deadline
from llava_st_ros.ros.track_outputs import TrackOutputs

OVERLAY_EVENT_SECONDS = 3.0  # how long an ended event stays on the overlay
RESET_SECONDS = 60.0  # a frame that is older than another by more is of another stream
MAX_OVERLAY_EVENTS = 50  # per camera; more do not fit on an image


class _Shown(NamedTuple):
    """A frame with which something was published: its stamp and arrival (ns)."""

    stamp: int
    arrival: int | None

    @classmethod
    def of(cls, frame: Frame) -> _Shown:
        return cls(frame.stamp, frame.arrival)

    def is_after(self, frame: Frame) -> bool:
        """Whether this is later than another frame of the same stream."""
        if self.arrival is not None and frame.arrival is not None and self.arrival < frame.arrival:
            return False  # the clock has jumped back
        return 0 < self.stamp - frame.stamp < RESET_SECONDS * NANOSECONDS


class OverlayEvents:
    """The events of one camera that its overlay shows: active ones, and final ones for a while."""

    def __init__(self) -> None:
        self._events: dict[int, Event] = {}  # by id

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Add an event, or replace its previous state.

        If there are many, the one that was added or replaced least recently is dropped.
        """
        self._events.pop(event.event_id, None)
        self._events[event.event_id] = event
        if len(self._events) > MAX_OVERLAY_EVENTS:
            del self._events[next(iter(self._events))]

    def at(self, stamp: int) -> list[Event]:
        """Drop what is not shown on an image with this stamp (ns), and return the rest."""
        oldest = stamp - round(OVERLAY_EVENT_SECONDS * NANOSECONDS)
        for event in list(self._events.values()):
            is_final = event.state in (EventState.ENDED, EventState.RETRACTED)
            is_over = is_final and event.span.end < oldest
            is_future = event.span.start > stamp  # the stream was reset
            if is_over or is_future:
                del self._events[event.event_id]
        return list(self._events.values())


class ResultPublishers:
    """The result topics, from construction to ``destroy``. Silent unless the node is active.

    Subscribers that join late get what holds now: when one appears, the last array of each camera's
    tracks, or the events that have not ended, are published again. (Transient local would give them
    messages of the past, and nothing to those that request volatile.) May be used by any thread.

    Neither tracks nor the overlay go back in a stream: the boxes of a tick are chosen and published
    under the same lock as those that ``publish_carried`` carries, and of the frames of ticks and of
    carried tracks, each is used only while no later one was. Later is what has a later stamp and
    has not arrived before, since the clock of a camera may jump.

    Args:
        node: The node that publishes.
        cameras: Names of all cameras.
        outputs: Publishes tracks in the messages of other packages, too; destroyed with this.
        carried: Returns tracks of a tick in the newest frame (``Grounder.carried``).

    Attributes:
        overlay_quality: JPEG quality, 1 to 100.
    """

    def __init__(
        self,
        node: LifecycleNode,
        cameras: Sequence[str],
        outputs: TrackOutputs | None = None,
        carried: Callable[[Sequence[Track]], tuple[Track, ...]] = tuple,
    ) -> None:
        self.overlay_quality = 80
        self._lock = threading.RLock()  # for all messages of tracks and events
        self._node = node
        self._outputs, self._carried = outputs, carried
        self._newest: dict[str, _Shown] = {}  # frame of the last tracks, by camera
        # By camera, with the boxes of the model and without confidence.
        self._last_tracks: dict[str, tuple[Track, ...]] = {}
        self._last_carried: dict[str, tuple[Track, ...]] = {}  # by camera
        self._events = {camera: OverlayEvents() for camera in cameras}
        self._arrays: dict[str, msg.GroundedTrackArray] = {}  # the last one of each camera
        self._open_events: dict[int, msg.GroundedEvent] = {}  # by id
        self._overlay_shows: dict[str, Frame] = {}  # by camera

        def publisher(  # type: ignore[no-untyped-def]
            kind: type, topic: str, profile: QoSProfile, joined: Callable[[], None] | None = None
        ):
            events = qos.publisher_events(node, topic, profile, joined)
            return node.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events)

        self._tracks = publisher(msg.GroundedTrackArray, "tracks", qos.RESULTS, self._repeat_tracks)
        self._event = publisher(msg.GroundedEvent, "events", qos.EVENTS, self._repeat_events)
        self._joins = qos.JoinedSubscribers(
            [(self._tracks, self._repeat_tracks), (self._event, self._repeat_events)]
        )
        self._answers = publisher(msg.Answer, "~/answers", qos.RESULTS)
        self._overlays = {
            camera: publisher(CompressedImage, overlay_topic(camera, cameras), qos.OVERLAY)
            for camera in cameras
        }
        for camera in cameras if len(cameras) > 1 else ():
            if topic_part(camera) != camera:
                node.get_logger().info(
                    f"the overlay of camera {camera!r} is {overlay_topic(camera, cameras)}"
                )

    def publish(self, tick: Tick, frames: Mapping[str, Frame]) -> None:
        """Publish the results of a tick.

        A camera's tracks are published if there was an answer or if they changed, and its overlay
        if it has a new frame, too. A result that cannot be published does not keep back the others.
        One call at a time.

        Args:
            tick: The tick.
            frames: Each camera's newest frame when the tick started.

        Raises:
            BackendError: Some results could not be published.
        """
        failures: list[Exception] = []

        def attempt(publish: Callable[[], None]) -> None:
            try:
                publish()
            except Exception as error:  # e.g. a value that the message cannot hold
                failures.append(error)

        overlays: list[Callable[[], None]] = []
        with self._lock:
            for grounding in tick.groundings:
                attempt(partial(self._publish_answer, grounding))
            for event in tick.events:
                attempt(partial(self._publish_event, event))
            answered = {grounding.camera for grounding in tick.groundings}
            carried = self._carried(tick.tracks)  # newer frames may have been published meanwhile
            for camera, frame in frames.items():
                tracks = tuple(track for track in carried if track.camera == camera)
                shown = self._overlay_shows.get(camera)
                if shown is not None and _Shown.of(shown).is_after(frame):
                    frame = shown  # of ``Worker.refresh``, while the model was busy
                is_new = shown is None or shown.stamp != frame.stamp
                model_tracks = tuple(map(_without_carried_box, tracks))
                # Between answers only the confidence of carried boxes changes.
                known = tuple(replace(track, confidence=0.0) for track in model_tracks)
                if camera in answered or known != self._last_tracks.get(camera, ()):
                    self._last_tracks[camera] = known
                    attempt(partial(self._publish_tracks, tracks, frame))
                    is_new = True
                if is_new:
                    self._overlay_shows[camera] = frame
                    overlays.append(partial(self._publish_overlay, frame, model_tracks))
        for publish_overlay in overlays:  # carried tracks do not wait for the encoding
            attempt(publish_overlay)
        if failures:
            first = failures[0]
            raise BackendError(
                f"{len(failures)} results could not be published; the first: "
                f"{type(first).__name__}: {first}"
            ) from first

    def has_track_subscriber(self, camera: str) -> bool:
        """Whether anybody has subscribed to the tracks of a camera, in any message."""
        if self._tracks.get_subscription_count():
            return True
        return self._outputs is not None and self._outputs.has_subscriber(camera)

    def publish_carried(
        self, frame: Frame, propagate: Callable[[Frame], tuple[Track, ...] | None]
    ) -> None:
        """Carry the tracks of a camera to a frame, and publish them if there are any.

        Tracks that are LOST are published once. Nothing is published if a tick's tracks were, with
        a later frame: that one is carried next.

        Args:
            frame: The frame.
            propagate: Carries the tracks (``Grounder.propagate``).
        """
        with self._lock:
            tracks = propagate(frame)
            if tracks is None:
                return
            newest = self._newest.get(frame.camera)
            if newest is not None and newest.is_after(frame):
                return
            self._newest[frame.camera] = _Shown.of(frame)
            is_carried = any(track.state is TrackState.PROPAGATED for track in tracks)
            if is_carried or (tracks and tracks != self._last_carried.get(frame.camera)):
                self._publish_tracks(tracks, frame)
            self._last_carried[frame.camera] = tracks

    def forget_carried(self) -> None:
        """Forget the tracks of ``publish_carried``."""
        with self._lock:
            self._last_carried.clear()

    def reset(self) -> None:
        """Forget tracks and events: a new stream starts."""
        with self._lock:
            self._last_tracks.clear()
            self.forget_carried()
            self._newest.clear()
            self._arrays.clear()
            self._open_events.clear()
            self._overlay_shows.clear()
            for camera in self._events:
                self._events[camera] = OverlayEvents()
        if self._outputs is not None:
            self._outputs.reset()

    def refresh(self) -> None:
        """Notice subscribers that rclpy does not report (in Humble). Call it regularly."""
        self._joins.refresh()
        if self._outputs is not None:
            self._outputs.refresh()

    def flush(self, seconds: float) -> bool:
        """Wait until every subscriber has the tracks and events that were published.

        Returns:
            Whether they have, within the time in seconds.
        """
        deadline = Deadline(seconds)
        return all(
            publisher.wait_for_all_acked(Duration(seconds=deadline.remaining))
            for publisher in (self._tracks, self._event)
        )

    def destroy(self) -> None:
        # An executor that waits holds our event handlers, and so this object: not the model, too.
        self._carried = tuple
        for publisher in (self._tracks, self._event, self._answers, *self._overlays.values()):
            self._node.destroy_lifecycle_publisher(publisher)
        if self._outputs is not None:
            self._outputs.destroy()

    def _publish_answer(self, grounding: Grounding) -> None:
        self._answers.publish(conversions.answer_to_msg(grounding))

    def _publish_event(self, event: Event) -> None:
        if event.camera in self._events:
            self._events[event.camera].add(event)
        message = conversions.event_to_msg(event)
        if event.state in (EventState.ENDED, EventState.RETRACTED):
            self._open_events.pop(event.event_id, None)
        else:
            self._open_events[event.event_id] = message
        self._event.publish(message)

    def _repeat_tracks(self) -> None:
        with self._lock:
            for message in self._arrays.values():
                self._tracks.publish(message)

    def _repeat_events(self) -> None:
        with self._lock:
            for message in self._open_events.values():
                self._event.publish(message)

    def _publish_tracks(self, tracks: Sequence[Track], frame: Frame) -> None:
        newest = self._newest.get(frame.camera)
        if newest is None or not newest.is_after(frame):
            newest = self._newest[frame.camera] = _Shown.of(frame)
        message = conversions.tracks_to_msg(tracks, frame.camera, newest.stamp, frame.frame_id)
        self._arrays[frame.camera] = message
        self._tracks.publish(message)
        if self._outputs is not None:
            self._outputs.publish(frame.camera, tracks, message.header)

    def _publish_overlay(self, frame: Frame, tracks: Sequence[Track]) -> None:
        publisher = self._overlays.get(frame.camera)
        if publisher is None:
            return
        events = self._events[frame.camera].at(frame.stamp)  # drops old ones, viewed or not
        if not publisher.get_subscription_count():
            return  # drawing and encoding are expensive
        image = draw(frame.image, tracks, events)
        publisher.publish(overlay_msg(image, frame, self.overlay_quality))


def _without_carried_box(track: Track) -> Track:
    """Return a track with the boxes of the model only, which are those of an older frame."""
    if track.propagated_from is None:
        return track
    is_lost = track.state is TrackState.LOST
    return replace(
        track,
        tube=BoxTube(track.tube.stamps[:-1], track.tube.boxes[:-1]),
        state=TrackState.LOST if is_lost else TrackState.GROUNDED,
        propagated_from=None,
    )


def overlay_topic(camera: str, cameras: Sequence[str]) -> str:
    """Return ``~/overlay/compressed``, with the camera's name in between if there are several.

    The name is changed where topics cannot have it: see ``topic_part``.
    """
    if len(cameras) == 1:
        return "~/overlay/compressed"
    return f"~/overlay/{topic_part(camera)}/compressed"


def overlay_msg(image: np.ndarray, frame: Frame, quality: int) -> CompressedImage:
    """Encode RGB uint8 [H, W, 3] as a JPEG message with the frame's stamp and frame_id."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=conversions.header(frame.stamp, frame.frame_id), format="jpeg")
    message.data.frombytes(encoded.tobytes())
    return message
