"""ResultPublishers: memory is bounded without a viewer; a bad result does not keep back others."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from sensor_msgs.msg import CompressedImage

from llava_st_ros import msg
from llava_st_ros.errors import BackendError
from llava_st_ros.records import (
    NANOSECONDS,
    Answer,
    Box,
    BoxTube,
    Event,
    EventState,
    Frame,
    Grounding,
    Query,
    Span,
    Task,
    Tick,
    Track,
    TrackState,
)
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.publishers import MAX_OVERLAY_EVENTS, OverlayEvents, ResultPublishers

pytestmark = pytest.mark.ros


class FakePublisher:
    event_handlers = ()

    def __init__(self, kind: type) -> None:
        self.kind, self.messages = kind, []

    def publish(self, message: Any) -> None:
        assert isinstance(message, self.kind)
        self.messages.append(message)

    def get_subscription_count(self) -> int:
        return 0


class FakeNode:
    """Creates publishers that keep their messages."""

    def __init__(self) -> None:
        self.publishers: dict[type, FakePublisher] = {}

    def resolve_topic_name(self, name: str) -> str:
        return name

    def create_lifecycle_publisher(self, kind: type, *_: Any, **__: Any) -> FakePublisher:
        return self.publishers.setdefault(kind, FakePublisher(kind))


def event(number: int, start: float, end: float, state: EventState = EventState.ENDED) -> Event:
    span = Span(round(start * NANOSECONDS), round(end * NANOSECONDS))
    return Event("q", number, "the red box", span, state, 0.5, "camera", "optical")


def frame(seconds: float) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), round(seconds * NANOSECONDS), "camera", "optical")


def grounding(query_id: str) -> Grounding:
    query = Query(query_id, "the red box", Task.REC)
    stamp = 5 * NANOSECONDS
    return Grounding(
        query, Answer(Task.REC), (stamp,), None, BoxTube(), 0.5, "camera", "optical", 2, 2
    )


def test_events_do_not_accumulate_without_a_viewer() -> None:
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    for i in range(500):
        tick = Tick(events=(event(i, i, i + 0.5),))
        publishers.publish(tick, {"camera": frame(i + 1)})
    assert len(node.publishers[msg.GroundedEvent].messages) == 500
    assert len(publishers._events["camera"]) <= 4  # those of the last three seconds
    for i in range(500):  # the camera has stopped
        publishers.publish(Tick(events=(event(1000 + i, 500, 501),)), {})
    assert len(publishers._events["camera"]) == MAX_OVERLAY_EVENTS


def test_overlay_shows_active_events_and_recent_ones() -> None:
    events = OverlayEvents()
    events.add(event(1, 1.0, 2.0))
    events.add(event(2, 1.0, 2.0, EventState.CONFIRMED))
    events.add(event(3, 4.0, 9.0))
    events.add(event(4, 1.0, 2.0, EventState.RETRACTED))
    assert [e.event_id for e in events.at(10 * NANOSECONDS)] == [2, 3]
    assert [e.event_id for e in events.at(3 * NANOSECONDS)] == [2]  # the stream was reset


def test_overlay_of_many_events_keeps_those_that_still_change() -> None:
    events = OverlayEvents()
    for number in range(MAX_OVERLAY_EVENTS):
        events.add(event(number, 1.0, 2.0, EventState.CONFIRMED))
    events.add(event(0, 1.0, 3.0, EventState.CONFIRMED))
    events.add(event(MAX_OVERLAY_EVENTS, 2.0, 3.0))
    shown = [e.event_id for e in events.at(3 * NANOSECONDS)]
    assert len(shown) == MAX_OVERLAY_EVENTS
    assert 0 in shown and 1 not in shown


def test_result_that_cannot_be_published_does_not_keep_back_the_others() -> None:
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    bad = replace(grounding("bad"), width=-1)  # not a uint32
    answers = node.publishers[msg.Answer]

    def publish(message: msg.Answer) -> None:
        if message.image_width < 0:
            raise AssertionError("the field must be an unsigned integer")
        answers.messages.append(message)

    answers.publish = publish  # type: ignore[method-assign]
    tick = Tick((bad, grounding("good")), (), (event(1, 1.0, 2.0),))
    with pytest.raises(BackendError, match="1 results could not be published"):
        publishers.publish(tick, {"camera": frame(5.0)})
    assert [answer.query.id for answer in answers.messages] == ["good"]
    assert len(node.publishers[msg.GroundedEvent].messages) == 1
    assert len(node.publishers[msg.GroundedTrackArray].messages) == 1


def track(stamp: float, state: TrackState = TrackState.PROPAGATED) -> Track:
    """A track whose box is in the frame with a stamp (s)."""
    tube = BoxTube((round(stamp * NANOSECONDS),), (Box(0.1, 0.1, 0.5, 0.5),))
    return Track("q", 1, "the red box", tube, state, 0.5, "camera", "optical", 640, 480)


def arrived(seconds: float, arrival: float) -> Frame:
    return replace(frame(seconds), arrival=round(arrival * NANOSECONDS))


def stamps(publisher: FakePublisher) -> list[float]:
    return [stamp_from_msg(m.header.stamp) / NANOSECONDS for m in publisher.messages]


def test_a_frame_that_waits_to_be_carried_while_a_tick_shows_a_later_one_is_not_published() -> None:
    """A tick has the newest frame at once; the thread that carries tracks is at the one before."""
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    arrays = node.publishers[msg.GroundedTrackArray]
    publishers.publish(Tick(tracks=(track(1.0),)), {"camera": arrived(1.0, 1.0)})
    publishers.publish(Tick(tracks=()), {"camera": arrived(3.0, 3.0)})  # a query was removed
    publishers.publish_carried(arrived(2.0, 2.0), lambda frame: (track(2.0),))
    assert stamps(arrays) == [1.0, 3.0]
    publishers.publish_carried(arrived(3.0, 3.0), lambda frame: (track(3.0),))
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(2.5, 2.5)})  # a slow answer
    assert stamps(arrays) == [1.0, 3.0, 3.0, 3.0]
    assert [len(array.tracks) for array in arrays.messages] == [1, 0, 1, 0]


def test_tracks_that_are_lost_are_published_although_a_tick_was_ahead() -> None:
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    lost = (track(1.0, TrackState.LOST),)
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(3.0, 3.0)})
    for seconds in (2.0, 3.0, 4.0):
        publishers.publish_carried(arrived(seconds, seconds), lambda frame: lost)
    assert stamps(node.publishers[msg.GroundedTrackArray]) == [3.0, 3.0]


def test_an_answer_that_took_long_shows_nothing_older_than_what_was_published_meanwhile() -> None:
    """``Worker.refresh`` publishes with newer frames while the model is busy, and nothing carries
    tracks."""
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    overlay, arrays = node.publishers[CompressedImage], node.publishers[msg.GroundedTrackArray]
    overlay.get_subscription_count = lambda: 1  # type: ignore[method-assign]
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(1.0, 1.0)})
    publishers.publish(Tick(tracks=(track(1.0),)), {"camera": arrived(5.0, 5.0)})
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(2.0, 2.0)})
    publishers.forget_carried()
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(3.0, 3.0)})
    assert stamps(arrays) == stamps(overlay) == [1.0, 5.0, 5.0, 5.0]


def test_stamps_go_back_where_the_clock_of_the_camera_does() -> None:
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    arrays = node.publishers[msg.GroundedTrackArray]
    publishers.publish_carried(arrived(30.0, 1.0), lambda frame: (track(30.0),))
    publishers.publish(Tick((grounding("q"),)), {"camera": arrived(20.0, 2.0)})
    publishers.publish_carried(arrived(10.0, 3.0), lambda frame: (track(10.0),))
    assert stamps(arrays) == [30.0, 20.0, 10.0]


def test_carried_tracks_do_not_wait_for_an_overlay() -> None:
    node = FakeNode()
    publishers = ResultPublishers(node, ("camera",))
    overlay, shown = node.publishers[CompressedImage], []

    def publish(message: CompressedImage) -> None:
        carried = threading.Event()

        def carry(frame: Frame) -> None:
            carried.set()

        arguments = (frame(6.0), carry)
        thread = threading.Thread(target=publishers.publish_carried, args=arguments, daemon=True)
        thread.start()
        shown.append(carried.wait(30))

    overlay.get_subscription_count = lambda: 1  # type: ignore[method-assign]
    overlay.publish = publish  # type: ignore[method-assign]
    publishers.publish(Tick((grounding("q"),)), {"camera": frame(5.0)})
    assert shown == [True]
