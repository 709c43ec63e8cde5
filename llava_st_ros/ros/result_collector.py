"""Collector process: subscribes to a node's results and prints each message as a JSON line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node

from llava_st_ros.msg import Answer, GroundedBox, GroundedEvent, GroundedTrack, GroundedTrackArray
from llava_st_ros.ros import qos
from llava_st_ros.ros.child_processes import send
from llava_st_ros.ros.conversions import match_probability, stamp_from_msg


class Collector(Node):
    """Prints a line for each message of the node.

    ``published`` is the middleware's source timestamp (ns, system clock): when the node published.
    """

    def __init__(self, target: str) -> None:
        super().__init__("result_collector")
        namespace = target.rpartition("/")[0]
        # rclpy passes the message info to callbacks with two parameters; its annotations do not
        # include these.
        topics: dict[str, tuple[type, Callable[..., None]]] = {
            f"{namespace}/tracks": (GroundedTrackArray, self._on_tracks),
            f"{namespace}/events": (GroundedEvent, self._on_event),
            f"{target}/answers": (Answer, self._on_answer),
        }
        self._topics = [
            self.create_subscription(kind, topic, callback, qos.EVENTS)
            for topic, (kind, callback) in topics.items()
        ]

    @property
    def is_matched(self) -> bool:
        """Whether every topic has a publisher."""
        return all(self.count_publishers(subscription.topic_name) for subscription in self._topics)

    def _on_tracks(self, message: GroundedTrackArray, info: dict[str, int]) -> None:
        send(
            kind="tracks",
            published=info["source_timestamp"],
            stamp=stamp_from_msg(message.header.stamp),
            tracks=[_track(track) for track in message.tracks],
        )

    def _on_event(self, message: GroundedEvent, info: dict[str, int]) -> None:
        send(
            kind="event",
            published=info["source_timestamp"],
            stamp=stamp_from_msg(message.header.stamp),
            camera=message.camera,
            frame_id=message.header.frame_id,
            query_id=message.query_id,
            event_id=message.event_id,
            text=message.text,
            start=stamp_from_msg(message.start),
            end=stamp_from_msg(message.end),
            state=message.state,
            confidence=message.confidence,
            reason=message.reason,
        )

    def _on_answer(self, message: Answer, info: dict[str, int]) -> None:
        send(
            kind="answer",
            published=info["source_timestamp"],
            stamp=stamp_from_msg(message.header.stamp),
            camera=message.camera,
            frame_id=message.header.frame_id,
            image_width=message.image_width,
            image_height=message.image_height,
            query_id=message.query.id,
            query=message.query.text,
            task=message.query.task,
            window=[stamp_from_msg(message.window_start), stamp_from_msg(message.window_end)],
            text=message.text,
            confidence=message.confidence,
            span=[stamp_from_msg(time) for s in message.span for time in (s.start, s.end)],
            tube=_tube(message.tube),
            no_match=message.no_match,
            match_probability=match_probability(message),
            problems=list(message.problems),
        )


def _track(track: GroundedTrack) -> dict[str, Any]:
    return {
        "query_id": track.query_id,
        "track_id": track.track_id,
        "label": track.label,
        "state": track.state,
        "confidence": track.confidence,
        "camera": track.camera,
        "frame_id": track.header.frame_id,
        "image_width": track.image_width,
        "image_height": track.image_height,
        "tube": _tube(track.tube),
        "propagated_from": _propagated_from(track.tube[-1]) if track.tube else None,
    }


def _propagated_from(box: GroundedBox) -> int | None:
    if box.source != GroundedBox.PROPAGATION:
        return None
    return stamp_from_msg(box.stamp) - stamp_from_msg(box.age)


def _tube(boxes: Sequence[GroundedBox]) -> list[list[float]]:
    return [
        [stamp_from_msg(b.stamp), b.box.x_min, b.box.y_min, b.box.x_max, b.box.y_max] for b in boxes
    ]


def main() -> int:
    rclpy.init()
    collector = Collector(sys.argv[1])
    while not collector.is_matched:
        rclpy.spin_once(collector, timeout_sec=0.05)
    send(kind="ready")
    rclpy.spin(collector)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        sys.exit(0)
