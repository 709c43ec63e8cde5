"""A ROS 2 node that prints the tracks and events of the grounding node.

    ros2 launch llava_st_ros grounding.launch.py image:=/camera/image_raw
    python examples/subscribe_to_tracks.py

In a checkout, run it through ``scripts/with_ros``, where rclpy and the messages can be imported.
"""

from __future__ import annotations

from contextlib import suppress

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from llava_st_ros.msg import GroundedEvent, GroundedTrack, GroundedTrackArray
from llava_st_ros.records import EventState

TRACK_STATES = {getattr(GroundedTrack, name): name for name in ("GROUNDED", "PROPAGATED", "LOST")}
EVENT_STATES = {state.value: state.name for state in EventState}


def seconds(time: Time) -> float:
    return time.sec + time.nanosec / 1e9


class TrackPrinter(Node):
    """Prints each track's current box in pixels, and each change of an event."""

    def __init__(self) -> None:
        super().__init__("track_printer")
        self.create_subscription(GroundedTrackArray, "tracks", self.print_tracks, 10)
        self.create_subscription(GroundedEvent, "events", self.print_event, 10)

    def print_tracks(self, message: GroundedTrackArray) -> None:
        for track in message.tracks:
            box = track.box
            corners = f"{box.x_min:.0f},{box.y_min:.0f} {box.x_max:.0f},{box.y_max:.0f}"
            state = TRACK_STATES[track.state]
            print(f"track {track.track_id} {state} on {track.camera}: [{corners}] {track.label}")

    def print_event(self, event: GroundedEvent) -> None:
        span = f"{seconds(event.start):.2f}-{seconds(event.end):.2f} s"
        print(f"event {event.event_id} {EVENT_STATES[event.state]}: {span} {event.text}")


def main() -> None:
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(TrackPrinter())


if __name__ == "__main__":
    main()
