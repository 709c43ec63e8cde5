"""What is published is true although nothing arrives: silence, a hung model, deactivation; late
subscribers get what holds now. With real DDS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from llava_st_ros import msg, srv
from llava_st_ros.ros.conversions import stamp_to_msg
from support.red_box_backend import red_box_image
from support.ros_client import ClientNode, image_message, spinning_client

pytestmark = pytest.mark.ros
SECOND = 10**9
GROUNDED, PROPAGATED, LOST = (
    msg.GroundedTrack.GROUNDED,
    msg.GroundedTrack.PROPAGATED,
    msg.GroundedTrack.LOST,
)
Event = msg.GroundedEvent
FINAL = (Event.ENDED, Event.RETRACTED)


class Watcher:
    """The topics ``tracks`` and ``events``, and a camera that shows a red box."""

    def __init__(self, client: ClientNode, profile: Any = 100) -> None:
        self.client = client
        self.arrays = client.collect(msg.GroundedTrackArray, "tracks", profile)
        self.events = client.collect(Event, "events", profile)
        self._stamps = iter(range(10**12, 10**13, SECOND // 10))

    def camera(self, topic: str = "image") -> Callable[[], None]:
        """Return a function that publishes the camera's next image."""
        camera = self.client.camera(topic)

        def publish_image() -> None:
            camera.publish(image_message(red_box_image(10, 10, 30, 30), next(self._stamps)))

        return publish_image

    def states(self, camera: str = "camera") -> list[list[int]]:
        """The states of the tracks of each array, without repetitions."""
        states = [[t.state for t in a.tracks] for a in list(self.arrays) if a.camera == camera]
        return [state for state, _ in itertools.groupby(states)]

    def last_arrays(self) -> dict[str, msg.GroundedTrackArray]:
        return {array.camera: array for array in list(self.arrays)}

    def last_events(self) -> dict[int, msg.GroundedEvent]:
        return {event.event_id: event for event in list(self.events)}

    def open_events(self) -> list[msg.GroundedEvent]:
        return [event for event in self.last_events().values() if event.state not in FINAL]

    def is_confirmed(self) -> bool:
        return any(event.state == Event.CONFIRMED for event in self.open_events())

    def reasons(self) -> set[int]:
        return {event.reason for event in self.last_events().values()}


@pytest.fixture
def watcher(client: ClientNode) -> Watcher:
    return Watcher(client)


PARAMETERS = {"queries": ['{"id": "box", "text": "the red box", "task": "STVG", "period": 0.2}']}


def test_a_silent_camera_loses_its_tracks_and_ends_its_events(watcher: Watcher, start_node) -> None:
    """Injected: a camera that stops, and later returns.
    Published: LOST tracks, an empty array, ENDED events with the reason; tracks and a new
        event when it returns.
    Logged: WARN that it is silent; INFO that it sends images again.
    """
    node = start_node(camera_timeout=0.3, track_timeout=0.3, **PARAMETERS)
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.is_confirmed, "a confirmed event")
    # Nothing is published by the client from here on.
    watcher.client.wait(lambda: watcher.states()[-2:] == [[LOST], []], "LOST tracks, then none")
    watcher.client.wait(lambda: not watcher.open_events(), "the end of the events")
    assert watcher.reasons() == {Event.REASON_CAMERA_SILENT}
    assert {e.state for e in watcher.last_events().values()} == {Event.ENDED}
    watcher.client.wait_log("camera 'camera' has sent no usable image for", "its tracks are lost")
    seen = len(watcher.arrays)
    watcher.client.publish_until(
        publish_image,
        lambda: watcher.is_confirmed() and watcher.states()[-1] in ([GROUNDED], [PROPAGATED]),
        "a new event and a track",
    )
    assert len(watcher.arrays) > seen
    watcher.client.publish_until(
        publish_image,
        lambda: "camera 'camera' sends images again" in watcher.client.log_lines(),
        "a log line about the return",
    )
    assert node._worker.grounder.stream_report("camera").counts.resets == 0


def test_a_low_frame_rate_is_no_silence(client: ClientNode, start_node) -> None:
    """Injected: a max_frame_rate that leaves 10 s between two frames, with camera_timeout 0.1 s.
    Published: tracks as before: the camera is not silent.
    Logged: nothing.
    """
    node = start_node(camera_timeout=0.1, max_frame_rate=0.1, **PARAMETERS)
    (camera,) = node._cameras
    publisher, stamps = client.camera("image"), itertools.count(10**12, SECOND // 1000)

    def publish_image() -> None:
        publisher.publish(image_message(red_box_image(10, 10, 30, 30), next(stamps)))

    checks = count_checks(node)
    client.publish_until(publish_image, lambda: camera.intake.counts.skipped, "a skipped image")
    first = checks[0]
    client.publish_until(publish_image, lambda: checks[0] >= first + 3, "three checks")
    assert camera.intake.counts.received - camera.intake.counts.skipped == 1  # one frame
    assert not any("no usable image" in line for line in client.log_lines())


def test_an_inactive_node_reports_no_cameras(watcher: Watcher, start_node) -> None:
    """Injected: a deactivation while a camera is silent, which takes long.
    Published: nothing more about the camera.
    Logged: nothing more: neither that it is silent nor that it is back.
    """
    node = start_node(camera_timeout=0.1, **PARAMETERS)
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.states, "an array")
    watcher.client.wait_log("camera 'camera' has sent no usable image")
    reported = [0]
    report = node._report_silences

    def counted(silent: Any) -> None:
        report(silent)
        reported[0] += 1

    node._report_silences = counted
    pause = node._worker.pause

    def slow_pause(timeout: float) -> bool:  # as for an inference that does not end at once
        is_idle, first = pause(timeout), reported[0]
        watcher.client.poll(lambda: reported[0] > first + 1, "a check during the deactivation")
        return is_idle

    node._worker.pause = slow_pause
    node.trigger_deactivate()
    node._worker.pause = pause
    first = reported[0]
    watcher.client.poll(lambda: reported[0] > first + 1, "a check of the inactive node")
    node.get_logger().info("the end")
    watcher.client.wait_log("the end")
    assert len([line for line in watcher.client.log_lines() if "camera 'camera'" in line]) == 1


def count_checks(node: Any) -> list[int]:
    """Return a list with the number of times that silent cameras were looked for."""
    monitor, checks = node._worker._silence, [0]
    silent = monitor.silent

    def counted(timeout: int) -> Any:
        found = silent(timeout)
        checks[0] += 1
        return found

    monitor.silent = counted
    return checks


def test_a_paused_simulation_is_no_silence(watcher: Watcher, start_node) -> None:
    """Injected: a simulation that pauses, and then goes on without its camera.
    Published: what held before the pause; then an empty array and ENDED events.
    Logged: WARN after the simulation goes on.
    """
    node = start_node(camera_timeout=0.1, track_timeout=0.1, use_sim_time=True, **PARAMETERS)
    clock, publish_image = watcher.client.create_publisher(Clock, "/clock", 10), watcher.camera()
    times = iter(range(50 * SECOND, 10**13, SECOND // 10))

    def step() -> None:
        clock.publish(Clock(clock=stamp_to_msg(next(times))))

    def run() -> None:
        step()
        publish_image()

    watcher.client.publish_until(run, watcher.is_confirmed, "a confirmed event")
    checks = count_checks(node)
    watcher.client.poll(lambda: checks[0] >= 2, "two checks while the simulation is paused")
    assert watcher.is_confirmed()
    # The simulation goes on without the camera.
    watcher.client.publish_until(
        step, lambda: watcher.states()[-1:] == [[]], "the end of the tracks"
    )
    assert watcher.reasons() == {Event.REASON_CAMERA_SILENT}


def test_a_deactivated_node_says_that_everything_ends(watcher: Watcher, start_node) -> None:
    """Injected: a deactivation while events and tracks are open.
    Published: an empty array; ENDED events with the reason.
    Logged: INFO that everything has ended.
    """
    node = start_node(confirmations=1, **PARAMETERS)
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.is_confirmed, "a confirmed event")
    node.trigger_deactivate()
    watcher.client.wait(lambda: watcher.states()[-1:] == [[]], "an empty array")
    watcher.client.wait(lambda: not watcher.open_events(), "the end of the events")
    assert watcher.reasons() == {Event.REASON_DEACTIVATED}
    watcher.client.wait_log("inactive: all tracks and events have ended")


def test_an_unconfirmed_event_is_retracted_at_the_end(watcher: Watcher, start_node) -> None:
    """Injected: a deactivation while an event is PROVISIONAL.
    Published: RETRACTED, with the reason.
    Logged: INFO that everything has ended.
    """
    node = start_node(confirmations=30, **PARAMETERS)
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.open_events, "a provisional event")
    node.trigger_deactivate()
    watcher.client.wait(lambda: not watcher.open_events(), "its end")
    assert {(e.state, e.reason) for e in watcher.last_events().values()} == {
        (Event.RETRACTED, Event.REASON_DEACTIVATED)
    }


def test_a_deactivation_in_the_middle_of_a_tick_ends_what_was_published(
    watcher: Watcher, start_node, backend
) -> None:
    """Injected: a deactivation in the middle of a tick that outlasts stop_timeout.
    Published: an empty array and ENDED events; then nothing, the answer is dropped.
    Logged: WARN that an inference is still running.
    """
    node = start_node(stop_timeout=0.2, **PARAMETERS)
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.is_confirmed, "a confirmed event")
    backend.hold(0)
    watcher.client.publish_until(publish_image, lambda: backend.is_blocked, "a tick")
    node.trigger_deactivate()
    watcher.client.wait(lambda: not watcher.open_events(), "the end of the events")
    watcher.client.wait(lambda: watcher.states()[-1:] == [[]], "an empty array")
    watcher.client.wait_log("an inference is still running; its result will be dropped")
    ends = len(watcher.arrays), len(watcher.events)
    backend.resume()
    node._worker.pause(30.0)  # waits for the tick
    assert (len(watcher.arrays), len(watcher.events)) == ends
    assert watcher.reasons() == {Event.REASON_DEACTIVATED}


def test_tracks_are_lost_and_services_respond_while_the_model_hangs(
    watcher: Watcher, start_node, backend
) -> None:
    """Injected: a model that hangs in a tick while its camera goes on.
    Published: LOST tracks, then an empty array; services respond, and removing the query ends
        its events.
    Logged: nothing before watchdog_seconds.
    """
    start_node(track_timeout=5.0, **PARAMETERS)  # a second of the test
    publish_image = watcher.camera()
    watcher.client.publish_until(publish_image, watcher.is_confirmed, "a confirmed event")
    backend.hold(0)
    watcher.client.publish_until(
        publish_image, lambda: watcher.states()[-2:] == [[LOST], []], "LOST tracks, then none"
    )
    request = srv.RemoveQuery.Request(id="box")
    assert watcher.client.call(srv.RemoveQuery, "grounding/remove_query", request).success
    watcher.client.wait(lambda: not watcher.open_events(), "the end of the events")
    assert Event.REASON_QUERY_REMOVED in watcher.reasons()


def test_a_hung_model_ends_the_events_of_all_cameras(watcher: Watcher, start_node, backend) -> None:
    """Injected: a model that hangs in a tick past watchdog_seconds, and then goes on.
    Published: LOST tracks, and ENDED events of all cameras with the reason; when it answers
        again, tracks and new events.
    Logged: ERROR that the inference is hung; INFO that it continues.
    """
    cameras = ["left", "right"]
    node = start_node(cameras=cameras, camera_timeout=60.0, confirmations=1, **PARAMETERS)
    publishers = [watcher.camera(name) for name in cameras]

    def publish_images() -> None:
        for publish_image in publishers:
            publish_image()

    def open_cameras() -> set[str]:
        return {e.camera for e in watcher.open_events() if e.state == Event.CONFIRMED}

    def are_lost() -> bool:
        return all({t.state for t in a.tracks} <= {LOST} for a in watcher.last_arrays().values())

    watcher.client.publish_until(
        publish_images, lambda: open_cameras() == set(cameras), "an event on each camera"
    )
    backend.hold(0)
    watcher.client.publish_until(
        publish_images, lambda: node._worker._progress.step_name == "decode", "a tick"
    )
    node._worker.watchdog_seconds = 0.1
    watcher.client.wait(lambda: not watcher.open_events(), "the end of the events")
    watcher.client.wait(are_lost, "LOST tracks")
    ended = watcher.last_events()
    by_hang = [e for e in ended.values() if e.reason == Event.REASON_MODEL_HANGS]
    assert {(e.camera, e.state) for e in by_hang} == {(name, Event.ENDED) for name in cameras}
    watcher.client.wait_log("the inference is hung: no progress for", "in decode")
    seen = len(watcher.events)
    node._worker.watchdog_seconds = 60.0
    backend.resume()
    watcher.client.wait_log("the inference continues")
    watcher.client.publish_until(
        publish_images, lambda: open_cameras() == set(cameras), "a new event on each camera"
    )
    assert not {e.event_id for e in list(watcher.events)[seen:]} & ended.keys()
    assert not are_lost()


@pytest.fixture
def late(context) -> Iterator[ClientNode]:
    with spinning_client(context) as node:
        yield node


@pytest.mark.parametrize("reliability", ["RELIABLE", "BEST_EFFORT"])
def test_late_subscribers_get_what_holds_now_and_nothing_of_the_past(
    watcher: Watcher, start_node, late: ClientNode, reliability: str
) -> None:
    """Injected: a subscriber that joins when everything has been published.
    Published: the last array of each camera and the open events, again.
    Logged: nothing.
    """
    start_node(cameras=["left", "right"], camera_timeout=60.0, **PARAMETERS)
    cameras = [watcher.camera("left"), watcher.camera("right")]

    def publish_images() -> None:
        for publish_image in cameras:
            publish_image()

    def is_confirmed() -> bool:
        confirmed = {e.camera for e in watcher.open_events() if e.state == Event.CONFIRMED}
        return confirmed == {"left", "right"}

    watcher.client.publish_until(publish_images, is_confirmed, "an event on each camera")
    request = srv.Enable.Request(enable=False)  # no further answer is published
    assert watcher.client.call(srv.Enable, "grounding/enable", request).success
    joined = Watcher(late, QoSProfile(depth=20, reliability=ReliabilityPolicy[reliability]))
    late.wait(lambda: {a.camera for a in joined.arrays} == {"left", "right"}, "both cameras")
    late.wait(lambda: joined.last_events().keys() >= {0}, "the events")
    late.poll(lambda: joined.last_events() == watcher.last_events(), "the same events")
    assert not [event for event in joined.events if event.state in FINAL]
    late.poll(lambda: joined.last_arrays() == watcher.last_arrays(), "the same arrays")


def test_late_subscribers_that_are_not_reported_are_noticed_by_their_number() -> None:
    """Injected: an RMW implementation that does not report subscribers.
    Published: what holds, again, when their number grows.
    Logged: nothing.
    """
    from llava_st_ros.ros import qos

    class Publisher:
        count = 0
        event_handlers = ()

        def get_subscription_count(self) -> int:
            return self.count

    publisher, calls = Publisher(), []
    joined = qos.JoinedSubscribers([(publisher, lambda: calls.append(publisher.count))])
    for publisher.count in (0, 1, 1, 3, 2, 3):
        joined.refresh()
    assert calls == [1, 3, 3]
