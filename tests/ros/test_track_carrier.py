"""Tracks at camera rate, with the real node: the model is held while images arrive."""

from __future__ import annotations

import queue
from itertools import pairwise
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import ImageMarker

from llava_st_ros import msg
from llava_st_ros.records import Frame
from llava_st_ros.ros.conversions import stamp_from_msg
from llava_st_ros.ros.track_carrier import TrackCarrier
from llava_st_ros.tracking.propagation import PropagationCounts
from support.red_box_backend import STEP_X, red_box_image
from support.ros_client import image_message

pytestmark = pytest.mark.ros
SECOND = 10**9
START = 1000 * SECOND
INTERVAL = SECOND // 30
BOX = '{"id": "box", "text": "the red box", "task": "REC"}'
PROPAGATED, LOST = msg.GroundedTrack.PROPAGATED, msg.GroundedTrack.LOST


def place(number: int) -> int:
    """The left side of the box in image ``number``, in raster steps: to and fro."""
    return 10 + abs(number % 80 - 40)


class Footage:
    """A red box that moves by a raster step with each image, 30 images a second."""

    def __init__(self, client, topic: str = "/image", start: int = START) -> None:
        self._camera = client.camera(topic)
        self.start, self.count = start, 0

    def publish(self) -> None:
        left = place(self.count)
        image = red_box_image(left, 20, left + 30, 60)
        self._camera.publish(image_message(image, self.start + self.count * INTERVAL, "optical"))
        self.count += 1


def carried(arrays) -> list[msg.GroundedTrackArray]:
    return [a for a in arrays if a.tracks and a.tracks[0].state == PROPAGATED]


def number_of(array, start: int = START) -> int:
    return (stamp_from_msg(array.header.stamp) - start) // INTERVAL


def test_tracks_follow_the_camera_while_the_model_is_busy(client, start_node, backend) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    status = client.collect(DiagnosticArray, "/diagnostics")
    start_node(queries=[BOX], max_frame_rate=5.0)
    footage = Footage(client)
    client.publish_until(footage.publish, lambda: tracks, "the first answer")
    backend.hold(0)  # no further answer
    held = footage.count
    client.publish_until(
        footage.publish,
        lambda: [a for a in carried(tracks) if number_of(a) > held][20:],
        "tracks between two answers",
    )
    found = [a for a in carried(tracks) if number_of(a) > held]
    numbers = [number_of(array) for array in found]
    assert numbers == sorted(set(numbers))
    # The model would see every sixth image.
    assert min(b - a for a, b in pairwise(numbers)) == 1
    for array, number in zip(found, numbers):
        (track,) = array.tracks
        assert track.header.stamp == array.header.stamp
        assert track.box.x_min / STEP_X == pytest.approx(place(number), abs=1.0)
        first, last = track.tube
        assert (first.source, last.source) == (msg.GroundedBox.MODEL, msg.GroundedBox.PROPAGATION)
        age = last.age.sec * SECOND + last.age.nanosec
        assert age == stamp_from_msg(last.stamp) - stamp_from_msg(first.stamp)

    def diagnostics() -> list[dict[str, str]]:
        return [
            {v.key: v.value for v in s.values}
            for array in list(status)
            for s in array.status
            if s.name == "/grounding: tracks camera"
        ]

    client.publish_until(footage.publish, diagnostics, "their diagnostics")
    found = diagnostics()
    delays = [s["delay from callback to publication"] for s in found]
    measured = [int(text.split(" over ")[1].split(";")[0]) for text in delays if text != "none"]
    assert sum(measured) == int(found[-1]["images"])  # each image once


def test_an_answer_is_published_in_the_newest_image_and_stamps_do_not_decrease(
    client, start_node, backend
) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    answers = client.collect(msg.Answer, "~/answers".replace("~", "/grounding"))
    start_node(queries=[BOX])
    footage = Footage(client)
    client.publish_until(footage.publish, lambda: tracks, "the first answer")
    backend.hold(0)
    held = footage.count
    client.publish_until(footage.publish, lambda: footage.count > held + 60, "two seconds")
    before = len(answers)
    backend.resume()
    client.publish_until(footage.publish, lambda: len(answers) > before, "the next answer")
    about = stamp_from_msg(answers[before].header.stamp)
    full = client.publish_until(
        footage.publish,
        lambda: [
            a for a in tracks if any(stamp_from_msg(b.stamp) == about for b in a.tracks[0].tube)
        ],
        "its tracks",
    )
    assert all(stamp_from_msg(a.header.stamp) > about for a in full[1:])
    stamps = [stamp_from_msg(a.header.stamp) for a in tracks]
    assert stamps == sorted(stamps)
    boxes = [stamp_from_msg(a.tracks[0].header.stamp) for a in tracks]
    assert boxes == sorted(boxes)


def test_nothing_is_carried_at_rate_zero_which_can_change_while_it_runs(client, start_node) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    node = start_node(queries=[BOX], track_rate=0.0)
    footage = Footage(client)
    client.publish_until(footage.publish, lambda: tracks[3:], "answers")
    assert not carried(tracks)
    node.set_parameters([Parameter("track_rate", value=30.0)])
    client.publish_until(footage.publish, lambda: carried(tracks), "carried tracks")
    node.set_parameters([Parameter("track_rate", value=0.0)])
    count = len(tracks)
    client.publish_until(footage.publish, lambda: tracks[count + 4 :], "answers again")
    assert not carried(tracks[-2:])
    footage.count = -600  # the bag starts again: arrays have the stamps of the new stream
    client.publish_until(
        footage.publish,
        lambda: [a for a in tracks[count:] if a.tracks and number_of(a) < 0],
        "tracks of the new stream",
    )


def test_no_exception_ends_the_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one of carrying, nor one of reporting that."""
    errors = {0: RuntimeError("no memory"), 1: SystemExit("a library gives up")}
    seen: queue.Queue[int] = queue.Queue()

    def publish_carried(frame: Frame, propagate: object) -> None:
        number = frame.stamp // SECOND
        seen.put(number)
        if number in errors:
            raise errors[number]

    def fail(error: BaseException) -> None:
        raise OSError(f"no logger for {error}")

    grounder = SimpleNamespace(queries=(BOX,))
    publishers = SimpleNamespace(
        has_track_subscriber=lambda camera: True, publish_carried=publish_carried
    )
    carrier = TrackCarrier(grounder, publishers, 60.0, fail)
    for number in range(3):
        carrier.add_frame(Frame(red_box_image(1, 1, 9, 9), number * SECOND, "camera"))
        assert seen.get(timeout=30) == number
    assert carrier.stop(30)
    first, second = capsys.readouterr().err.splitlines()
    assert "no memory" in first and "no logger" in first
    assert "a library gives up" in second


def test_tracks_are_carried_for_subscribers_of_another_output_only(
    client, start_node, backend
) -> None:
    """Nobody subscribes to ``tracks``; the overlay shows the model's boxes, and needs none."""
    overlays = client.collect(CompressedImage, "/grounding/overlay/compressed")
    answers = client.collect(msg.Answer, "/grounding/answers")
    node = start_node(queries=[BOX])
    footage = Footage(client)
    client.publish_until(footage.publish, lambda: overlays and answers[1:], "an overlay")
    assert node._worker.grounder.propagation_counts("camera") == PropagationCounts()
    markers = client.collect(ImageMarker, "/grounding/image_markers")
    # The first answers that have a subscriber may be about images from before, which are not kept.
    counts = node._worker.grounder.propagation_counts
    client.publish_until(
        footage.publish, lambda: markers and counts("camera").carried, "markers of a carried track"
    )
    backend.hold(0)  # no further answer
    held, count = footage.count, len(markers)
    client.publish_until(footage.publish, lambda: markers[count + 15 :], "carried markers")
    found = {number_of(marker): marker for marker in markers if number_of(marker) > held}
    assert min(b - a for a, b in pairwise(found)) == 1
    for number, marker in found.items():
        left = min(point.x for point in marker.points)
        assert left / STEP_X == pytest.approx(place(number), abs=1.5)


def test_each_camera_has_its_own_images_stamps_and_boxes(client, start_node, backend) -> None:
    """They move in opposite directions, at other times: what is mixed up would be noticed."""
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=[BOX], cameras=["left=/left", "right=/right"], max_frame_rate=5.0)
    cameras = {
        "left": Footage(client, "/left"),
        "right": Footage(client, "/right", START - 20 * SECOND),
    }
    cameras["right"].count = 40

    def publish() -> None:
        for footage in cameras.values():
            footage.publish()

    def of(camera: str, arrays) -> list[msg.GroundedTrackArray]:
        return [array for array in arrays if array.camera == camera]

    client.publish_until(
        publish, lambda: of("left", tracks) and of("right", tracks), "answers about both"
    )
    backend.hold(0)
    held = len(tracks)
    client.publish_until(
        publish,
        lambda: all(len(of(camera, carried(tracks[held:]))) > 15 for camera in cameras),
        "carried tracks of both",
    )
    for camera, footage in cameras.items():
        found = of(camera, carried(tracks[held:]))
        numbers = [number_of(array, footage.start) for array in found]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= set(range(footage.count))
        for array, number in zip(found, numbers):
            (track,) = array.tracks
            assert track.camera == camera
            assert track.box.x_min / STEP_X == pytest.approx(place(number), abs=1.5)
    count = len(tracks)
    backend.resume()
    client.publish_until(
        publish,
        lambda: all(
            [a for a in of(camera, tracks[count:]) if len(a.tracks[0].tube) > 2]
            for camera in cameras
        ),
        "new answers about both",
    )
    for camera, footage in cameras.items():
        numbers = [number_of(array, footage.start) for array in of(camera, tracks)]
        assert numbers == sorted(numbers)
        assert set(numbers) <= set(range(footage.count))
