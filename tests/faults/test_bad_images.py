"""Bad images are dropped, counted and logged with a reason; the node keeps running."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray

from llava_st_ros import msg
from support.red_box_backend import STEP_X, STEP_Y, red_box_image
from support.ros_client import ClientNode, compressed_message, image_message

pytestmark = pytest.mark.ros
TENTH = 100_000_000


@dataclass
class Clock:
    now: int = field(default=50 * 10 * TENTH)

    def __call__(self) -> int:
        self.now += TENTH
        return self.now


def raw_with(**changes: object) -> Callable[[int], object]:
    def build(stamp: int) -> object:
        message = image_message(red_box_image(10, 10, 30, 30), stamp)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    return build


def truncated_raw(stamp: int) -> object:
    message = image_message(red_box_image(10, 10, 30, 30), stamp)
    message.data = message.data[: len(message.data) // 2]
    return message


def huge_jpeg(stamp: int) -> object:
    """A complete JPEG whose header declares another size."""
    message = compressed_message(red_box_image(10, 10, 30, 30), stamp)
    data = bytes(message.data)
    size = data.index(b"\xff\xc0") + 5
    message.data = data[:size] + struct.pack(">HH", 20000, 30000) + data[size + 4 :]
    return message


def other_size(stamp: int) -> object:
    return image_message(red_box_image(10, 10, 30, 30)[:100, :100], stamp)


def compressed_with(cut: float = 1.0, data: bytes | None = None, suffix: str = ".jpg"):
    def build(stamp: int) -> object:
        message = compressed_message(red_box_image(10, 10, 30, 30), stamp, suffix=suffix)
        kept = bytes(message.data)[: round(len(message.data) * cut)]
        message.data = kept if data is None else data
        return message

    return build


def no_time(stamp: int) -> object:
    message = image_message(red_box_image(10, 10, 30, 30), stamp)
    message.header.stamp.nanosec = 4_000_000_000
    return message


BAD_RAW = {
    "image encoding 'yuv9'": raw_with(encoding="yuv9"),
    "image encoding '16UC1'": raw_with(encoding="16UC1"),
    "image encoding ''": raw_with(encoding=""),
    "the image has 20000x10000 pixels; expected at most 64": raw_with(width=20000, height=10000),
    "image is empty (0x0)": raw_with(width=0, height=0, step=0),
    "step 5": raw_with(step=5),
    "bytes are too few for a": truncated_raw,
    "stamp zero": lambda stamp: image_message(red_box_image(10, 10, 30, 30), 0),
    "nanosec 4000000000": no_time,
    "a frame of 100x100": other_size,
}
BAD_COMPRESSED = {
    "is truncated at": compressed_with(cut=0.5),
    "the image has 30000x20000 pixels; expected at most 64": huge_jpeg,
    "image has no data": compressed_with(data=b""),
    "not a readable image": compressed_with(data=b"this is not an image"),
    "(format 'png')": compressed_with(cut=0.1, suffix=".png"),
}


def dropped(diagnostics: list[DiagnosticArray], kind: str = "") -> int:
    values = [v for s in diagnostics[-1].status for v in s.values] if diagnostics else []
    return sum(int(v.value) for v in values if v.key.startswith(f"dropped{kind}"))


@pytest.mark.parametrize(
    ("transport", "bad"),
    [("raw", BAD_RAW), ("compressed", BAD_COMPRESSED)],
    ids=lambda p: str(p)[:10],
)
def test_bad_images_are_dropped_counted_and_logged(
    client: ClientNode, start_node, transport, bad
) -> None:
    """Injected: corrupt, truncated, empty, huge and zero-size images, wrong encodings, another
        size, invalid stamps, between good images.
    Published: tracks of the good images before and after, with exact boxes.
    Logged: WARN for each with its reason; diagnostics count them by kind.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    node = start_node(transport=transport, queries=["the red box"])
    is_compressed = transport == "compressed"
    camera = client.camera("image" + "/compressed" * is_compressed, compressed=is_compressed)
    clock = Clock()
    make = compressed_message if is_compressed else image_message

    def good() -> None:
        camera.publish(make(red_box_image(10, 10, 30, 30), clock()))

    client.publish_until(good, lambda: any(a.tracks for a in tracks), "a track before")
    for reason, build in bad.items():
        client.publish_until(
            lambda build=build: camera.publish(build(clock())),
            lambda reason=reason: any(
                "dropped a frame of /image" in line and reason in line
                for line in client.log_lines()
            ),
            f"a log line about {reason!r}",
        )
    client.wait(lambda: dropped(diagnostics) >= len(bad), "the drops in the diagnostics")
    for kind in (
        (", unreadable",)
        if is_compressed
        else (", unreadable", ", wrong size", ", no stamp", ", invalid stamp")
    ):
        client.wait(lambda kind=kind: dropped(diagnostics, kind) > 0, f"drops counted as{kind}")
    seen = len(tracks)
    client.publish_until(good, lambda: any(a.tracks for a in tracks[seen:]), "a track after")
    box = tracks[-1].tracks[0].box
    expected = (10 * STEP_X, 10 * STEP_Y, 30 * STEP_X, 30 * STEP_Y)
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(expected, abs=STEP_X)
    assert node.get_node_names()  # it is alive


def test_warnings_about_bad_images_are_throttled(client: ClientNode, start_node) -> None:
    """Injected: twenty bad images within one log_period.
    Published: nothing.
    Logged: one line; diagnostics count all of them.
    """
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(log_period=3600.0)
    camera, clock = client.camera("image"), Clock()
    client.publish_until(
        lambda: camera.publish(raw_with(encoding="yuv9")(clock())),
        lambda: dropped(diagnostics) > 20,
        "more than twenty bad images",
    )
    assert sum("dropped a frame" in line for line in client.log_lines()) == 1


def test_boxes_do_not_depend_on_encoding_or_row_padding(
    client: ClientNode, start_node, backend
) -> None:
    """Injected: an encoding and a row padding that change while the camera sends.
    Published: tracks with the same boxes throughout.
    Logged: nothing.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"], default_period=0.05)
    camera, clock, image = client.camera("image"), Clock(), red_box_image(20, 20, 50, 60)
    expected = (20 * STEP_X, 20 * STEP_Y, 50 * STEP_X, 60 * STEP_Y)
    for encoding in ("rgb8", "bgr8", "rgba8", "bgra8"):
        for padding in (0, 5):

            def padded(encoding: str = encoding, padding: int = padding) -> None:
                message = image_message(image, clock(), encoding=encoding)
                rows = np.frombuffer(message.data, np.uint8).reshape(message.height, -1)
                message.data = np.pad(rows, ((0, 0), (0, padding)), constant_values=255).tobytes()
                message.step += padding
                camera.publish(message)

            tracks.clear()
            client.publish_until(padded, lambda: any(a.tracks for a in tracks), encoding)
            for track in (t for a in tracks for t in a.tracks):
                for at in track.tube:
                    box = (at.box.x_min, at.box.y_min, at.box.x_max, at.box.y_max)
                    assert box == pytest.approx(expected, abs=0.01), (encoding, padding)


def test_permanent_change_of_image_size_is_accepted(client: ClientNode, start_node) -> None:
    """Injected: a camera that changes its image size for good.
    Published: tracks in pixels of the new size.
    Logged: WARN for the first images of the new size, until it is accepted.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"])
    camera, clock, image = client.camera("image"), Clock(), red_box_image(10, 10, 30, 30)
    client.publish_until(
        lambda: camera.publish(image_message(image, clock())),
        lambda: any(a.tracks for a in tracks),
        "a track",
    )
    half = np.ascontiguousarray(image[:, :200])
    client.publish_until(
        lambda: camera.publish(image_message(half, clock())),
        lambda: any(t.image_width == 200 for a in tracks for t in a.tracks),
        "a track of the new size",
    )


def test_a_camera_that_alternates_between_two_sizes_keeps_the_first(
    client: ClientNode, start_node
) -> None:
    """Injected: two publishers of other image sizes on one topic, in turns.
    Published: tracks in pixels of the first size.
    Logged: WARN with both sizes; diagnostics count the others.
    """
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(queries=["the red box"], default_period=0.2)
    camera, clock, image = client.camera("image"), Clock(), red_box_image(10, 10, 30, 30)
    half = np.ascontiguousarray(image[:, :200])

    def publish_both() -> None:
        for pixels in (image, half):
            camera.publish(image_message(pixels, clock()))

    client.publish_until(
        publish_both,
        lambda: dropped(diagnostics, ", wrong size") > 10 and any(a.tracks for a in tracks[-5:]),
        "tracks although the size changes",
    )
    client.wait_log("dropped a frame of /image (", "a frame of 200x297")
    assert {t.image_width for a in list(tracks) for t in a.tracks} == {image.shape[1]}


def test_a_bad_image_that_only_the_tracks_are_carried_to_is_logged_with_its_reason(
    client: ClientNode, start_node
) -> None:
    """Injected: truncated images that max_frame_rate keeps from the model, while tracks are
        carried.
    Published: tracks of the good images.
    Logged: WARN with the reason; the camera's last problem in diagnostics.
    """
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    (camera,) = start_node(max_frame_rate=0.01, queries=["the red box"])._cameras
    publisher, clock = client.camera("image"), Clock()

    def good() -> None:
        publisher.publish(image_message(red_box_image(10, 10, 30, 30), clock()))

    def is_carried() -> bool:
        carried = msg.GroundedTrack.PROPAGATED
        return any(track.state == carried for array in arrays for track in array.tracks)

    client.publish_until(good, is_carried, "a carried track")

    def is_logged() -> bool:
        return any("dropped a frame of /image (" in line for line in client.log_lines())

    client.publish_until(lambda: publisher.publish(truncated_raw(clock())), is_logged, "its reason")
    counts = camera.intake.counts
    assert counts.received - counts.skipped == 1  # the model has seen none of them
    assert "bytes are too few for a" in camera.last_problem
