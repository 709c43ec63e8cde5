"""What the node says: tracks, events, answers and the overlay, stamped as their images were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage

from llava_st_ros import msg
from llava_st_ros.media.overlay import draw
from llava_st_ros.records import NANOSECONDS, Event, EventState, Frame, Tick, Track
from llava_st_ros.ros import conversions, qos

OVERLAY_EVENT_SECONDS = 3.0  # an ended event stays on the overlay this long


class Publications:
    """The publishers, from construction to ``destroy``; they speak while the node is active.

    ``publish`` belongs to one thread.
    """

    def __init__(
        self, node: LifecycleNode, cameras: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        self.overlay_quality = 80  # JPEG
        self._node = node
        self._said: dict[str, tuple[Track, ...]] = {}
        self._events: dict[int, Event] = {}

        def publisher(kind: type, topic: str, profile: QoSProfile):  # type: ignore[no-untyped-def]
            events = qos.publisher_events(node, topic, profile, warn)
            return node.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events)

        self._tracks = publisher(msg.GroundedTrackArray, "tracks", qos.RESULTS)
        self._event = publisher(msg.GroundedEvent, "events", qos.RESULTS)
        self._answers = publisher(msg.Answer, "~/answers", qos.RESULTS)
        self._overlays = {
            camera: publisher(CompressedImage, overlay_topic(camera, cameras), qos.OVERLAY)
            for camera in cameras
        }

    def publish(self, tick: Tick, frames: Mapping[str, Frame]) -> None:
        """Publish what a tick brought; ``frames`` is each camera's newest when it began.

        Tracks go out for a camera when there was an answer or when they changed, so that silence
        on the topic means that nothing was asked.
        """
        for grounding in tick.groundings:
            self._answers.publish(conversions.answer_to_msg(grounding))
        for event in tick.events:
            self._event.publish(conversions.event_to_msg(event))
            self._events[event.event_id] = event
        answered = {grounding.camera for grounding in tick.groundings}
        for camera, frame in frames.items():
            tracks = tuple(track for track in tick.tracks if track.camera == camera)
            if camera in answered or tracks != self._said.get(camera, ()):
                self._said[camera] = tracks
                self._tracks.publish(
                    conversions.tracks_to_msg(tracks, camera, frame.stamp, frame.frame_id)
                )
            self._publish_overlay(frame, tracks)

    def begin_stream(self) -> None:
        """Forget what was said: another stream begins."""
        self._said.clear()
        self._events.clear()

    def destroy(self) -> None:
        for publisher in (self._tracks, self._event, self._answers, *self._overlays.values()):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publish_overlay(self, frame: Frame, tracks: Sequence[Track]) -> None:
        publisher = self._overlays.get(frame.camera)
        if publisher is None or not publisher.get_subscription_count():
            return  # drawing and encoding cost more than the rest of this module
        picture = draw(frame.image, tracks, self._events_shown(frame))
        publisher.publish(overlay_msg(picture, frame, self.overlay_quality))

    def _events_shown(self, frame: Frame) -> list[Event]:
        oldest = frame.stamp - round(OVERLAY_EVENT_SECONDS * NANOSECONDS)
        for event in list(self._events.values()):
            over = event.state is EventState.ENDED and event.span.end < oldest
            if event.camera == frame.camera and (over or event.span.start > frame.stamp):
                del self._events[event.event_id]  # over, or of a stream that began anew
        return [event for event in self._events.values() if event.camera == frame.camera]


def overlay_topic(camera: str, cameras: Sequence[str]) -> str:
    """``~/overlay/compressed`` of a single camera; one of several has its name in between."""
    return "~/overlay/compressed" if len(cameras) == 1 else f"~/overlay/{camera}/compressed"


def overlay_msg(image: np.ndarray, frame: Frame, quality: int) -> CompressedImage:
    """RGB uint8 [H, W, 3] -> a JPEG message with the frame's stamp and frame_id."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=conversions.header(frame.stamp, frame.frame_id), format="jpeg")
    message.data.frombytes(encoded.tobytes())
    return message
