"""Pure functions of the ROS package: no node, no DDS."""

from __future__ import annotations

import math
import re
import sys
import types
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from sensor_msgs.msg import Image

from llava_st_ros import msg
from llava_st_ros.errors import ConfigError, FrameError, QueryError
from llava_st_ros.media import image_decoding
from llava_st_ros.records import (
    Answer,
    Box,
    BoxTube,
    EndReason,
    Event,
    EventState,
    Grounding,
    Query,
    Segment,
    Span,
    Task,
    Track,
    TrackState,
)
from llava_st_ros.ros import conversions
from llava_st_ros.ros.camera_sources import parse_cameras
from llava_st_ros.ros.images import CvBridge, NumpyBridge, bridge_name, choose_bridge, to_rgb
from llava_st_ros.ros.intake import FrameIntake
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.streaming.frame_gate import SIZE_CHANGE_FRAMES
from llava_st_ros.text.query_parser import next_query_id, parse_queries
from support.paths import ROOT
from support.red_box_backend import red_box_image
from support.ros_client import compressed_message, image_message

pytestmark = pytest.mark.ros
SECOND = 10**9
ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, SECOND, 1_700_000_000 * SECOND + 7])
def test_stamps_keep_every_nanosecond(stamp: int) -> None:
    message = conversions.stamp_to_msg(stamp)
    assert (message.sec, message.nanosec) == (stamp // SECOND, stamp % SECOND)
    assert conversions.stamp_from_msg(message) == stamp


def test_track_is_converted_to_pixels_of_its_image() -> None:
    tube = BoxTube((1, 2), (Box(0.0, 0.0, 0.5, 0.5), Box(0.1, 0.2, 0.3, 0.4)))
    track = Track("q", 7, "the cup", tube, TrackState.PROPAGATED, 0.5, "front", "optical", 640, 480)
    message = conversions.track_to_msg(track)
    box = message.box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx((64, 96, 192, 192))
    assert message.tube[-1].box == box
    assert message.header.stamp.nanosec == message.tube[-1].stamp.nanosec == 2
    assert (message.header.frame_id, message.camera) == ("optical", "front")
    assert (message.query_id, message.track_id, message.label) == ("q", 7, "the cup")
    assert message.state == msg.GroundedTrack.PROPAGATED
    array = conversions.tracks_to_msg([track], "front", 9, "optical")
    assert (array.header.stamp.nanosec, array.header.frame_id) == (9, "optical")
    older = conversions.tracks_to_msg([track], "front", 1, "optical")
    assert older.header.stamp.nanosec == 2  # no box is newer than the array
    empty = conversions.tracks_to_msg([], "front", 9, "optical")
    assert (empty.header.stamp.nanosec, list(empty.tracks)) == (9, [])


def test_a_propagated_box_says_so_with_its_age() -> None:
    tube = BoxTube((SECOND, 3 * SECOND + 5), (Box(0, 0, 0.5, 0.5), Box(0.1, 0.2, 0.3, 0.4)))
    track = Track("q", 7, "cup", tube, TrackState.PROPAGATED, 0.5, "front", "optical", 640, 480)
    of_model, carried = conversions.track_to_msg(replace(track, propagated_from=SECOND)).tube
    assert (of_model.source, of_model.age.sec) == (msg.GroundedBox.MODEL, 0)
    assert carried.source == msg.GroundedBox.PROPAGATION
    assert (carried.age.sec, carried.age.nanosec) == (2, 5)
    plain = conversions.track_to_msg(track).tube[-1]
    assert (plain.source, plain.age.sec, plain.age.nanosec) == (msg.GroundedBox.MODEL, 0, 0)


@pytest.mark.parametrize(
    ("values", "name", "prefix"),
    [
        (TrackState, "GroundedTrack", ""),
        (EventState, "GroundedEvent", ""),
        (EndReason, "GroundedEvent", "REASON_"),
    ],
)
def test_constants_are_the_same_in_records_and_messages(values, name, prefix) -> None:
    text = (ROOT / "msg" / f"{name}.msg").read_text(encoding="utf-8")
    constants = {
        key.removeprefix(prefix): int(value)
        for key, value in re.findall(r"^uint8 (\w+)=(\d+)$", text, re.MULTILINE)
        if key.startswith("REASON_") == bool(prefix)
    }
    assert constants == {s.name: s.value for s in values}


def test_event_keeps_its_span() -> None:
    event = Event(
        "q", 3, "it falls", Span(5, 9 * SECOND), EventState.ENDED, 0.5, "front", "optical"
    )
    message = conversions.event_to_msg(event)
    assert (message.start.nanosec, message.end.sec, message.header.stamp.sec) == (5, 9, 9)
    assert (message.event_id, message.text, message.header.frame_id) == (3, "it falls", "optical")


def test_answer_is_mapped_to_stamps_of_the_window() -> None:
    query = Query("q", "what happens?", Task.DVC, box=Box(0.1, 0.2, 0.3, 0.4))
    answer = Answer(
        Task.DVC,
        "raw",
        caption="a cup",
        phrases=(("cup", Box(0.0, 0.0, 0.5, 1.0)),),
        segments=(((0, 2), "it falls"),),
        problems=("one",),
    )
    window = (10, 20, 30)
    tube = BoxTube((30,), (Box(0.0, 0.0, 1.0, 1.0),))
    segments = (Segment(Span(10, 30), "it falls"),)
    grounding = Grounding(
        query, answer, window, Span(10, 30), tube, 0.5, "front", "optical", 200, 100, segments
    )
    message = conversions.answer_to_msg(grounding)
    assert message.header.stamp.nanosec == message.window_end.nanosec == 30
    assert message.window_start.nanosec == 10
    assert (message.span[0].start.nanosec, message.span[0].end.nanosec) == (10, 30)
    assert (message.segments[0].start.nanosec, message.segments[0].end.nanosec) == (10, 30)
    assert message.segments[0].text == "it falls"
    assert (message.phrases[0], message.phrase_boxes[0].x_max) == ("cup", 100.0)
    assert message.tube[0].box.y_max == 100.0
    assert list(message.problems) == ["one"]
    assert not message.no_match
    no_match = replace(
        grounding, answer=Answer(Task.STVG, no_match=True), span=None, tube=BoxTube()
    )
    message = conversions.answer_to_msg(no_match)
    assert message.no_match
    assert not (message.span or message.tube)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0, None])
def test_answer_has_the_probability_of_a_match(probability: float | None) -> None:
    query = Query("q", "it falls", Task.STVG)
    grounding = Grounding(
        query, Answer(Task.STVG), (10, 30), None, BoxTube(), 0.5, "front", "", 200, 100
    )
    message = conversions.answer_to_msg(replace(grounding, match_probability=probability))
    assert conversions.match_probability(message) == probability
    assert math.isnan(message.match_probability) == (probability is None)


@pytest.mark.parametrize("task", list(Task))
def test_query_survives_the_round_trip(task: Task) -> None:
    query = Query(
        "q", "the cup", task, ("front",), 0.5, 3.0, (0.25, 0.75), Box(0.25, 0.5, 0.75, 1.0)
    )
    assert conversions.query_from_msg(conversions.query_to_msg(query), "q", 1.0) == query
    bare = Query("q", "the cup", task)
    assert conversions.query_from_msg(conversions.query_to_msg(bare), "q", 1.0) == bare


def test_queries_parameter_accepts_plain_words_and_json() -> None:
    entries = [
        "the red box",
        " ",
        '{"text": "falls", "task": "tvg", "period": 2}',
        '{"text": "x"}',
    ]
    queries = parse_queries(entries, 0.5)
    assert [(q.id, q.text, q.task, q.period) for q in queries] == [
        ("q1", "the red box", Task.REC, 0.5),
        ("q2", "falls", Task.TVG, 2.0),
        ("q3", "x", Task.STVG, 0.5),
    ]
    assert next_query_id(["q1", "q3"]) == "q2"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('{"text": ', "JSON"),
        ('{"text": "x", "perod": 1}', "perod"),
        ('{"text": 3}', "text is 3"),
        ('{"text": "x", "period": true}', "period is True"),
        ('{"text": "x", "box": [0, 0, 2, 1]}', "box"),
        ('{"text": "x", "box": "all"}', "box is 'all'"),
        ('{"text": "x", "span": [0.9, 0.1]}', "span"),
        ('{"text": "x", "task": "WHO"}', "WHO"),
    ],
)
def test_invalid_entry_of_the_queries_parameter_is_named(entry: str, reason: str) -> None:
    with pytest.raises(QueryError, match="expected") as caught:
        parse_queries([entry], 1.0)
    assert reason in str(caught.value)


def test_cameras_are_topics_with_an_optional_name() -> None:
    sources = parse_cameras(["front=/a/image", "/b/image_raw", "c/compressed", ""], "raw")
    assert [(s.name, s.topic, s.compressed, s.suffix) for s in sources] == [
        ("front", "/a/image", False, ""),
        ("b/image_raw", "/b/image_raw", False, ""),
        ("c/compressed", "c/compressed", True, ""),
    ]
    (source,) = parse_cameras(["/a/image"], "compressed")
    assert (source.compressed, source.suffix) == (True, "/compressed")
    assert parse_cameras(["", " "], "raw") == ()
    for entries in (["a=/x", "a=/y"], ["=x"], ["x="]):
        with pytest.raises(ConfigError, match="cameras"):
            parse_cameras(entries, "raw")
    with pytest.raises(ConfigError, match="transport"):
        NodeParameters(transport="smoke signal")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 1, 12])
def test_raw_images_of_every_encoding_and_padding(encoding: str, padding: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 5, 3), np.uint8)
    if encoding == "mono8":
        image = np.repeat(image[..., :1], 3, axis=2)
    message = image_message(image, 1, encoding=encoding)
    if encoding != "mono8":
        np.testing.assert_array_equal(to_rgb(message), image)
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, -1)
    plain = to_rgb(message)
    message.data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99).tobytes()
    message.step += padding
    message.is_bigendian = 1
    np.testing.assert_array_equal(to_rgb(message), plain)


@pytest.mark.parametrize("encoding", image_decoding.ENCODINGS)
@pytest.mark.parametrize("is_bigendian", [False, True])
def test_the_node_decodes_by_the_table_of_the_bags(encoding: str, is_bigendian: bool) -> None:
    step = 8 * image_decoding.PIXEL_BYTES.get(encoding, 1)
    size = 6 * step * (3 if encoding == "nv24" else 1.5 if encoding.startswith("nv") else 1)
    data = np.random.default_rng(0).integers(0, 256, int(size), np.uint8).tobytes()
    message = Image(height=6, width=8, encoding=encoding, step=step, data=data)
    message.is_bigendian = int(is_bigendian)
    expected = image_decoding.decode_raw(encoding, 6, 8, step, data, is_bigendian=is_bigendian)
    np.testing.assert_array_equal(to_rgb(message), expected)


def test_png_is_exact_and_jpeg_is_close() -> None:
    image = red_box_image(10, 10, 30, 30)
    np.testing.assert_array_equal(to_rgb(compressed_message(image, 1, suffix=".png")), image)
    assert np.abs(to_rgb(compressed_message(image, 1)).astype(int) - image).mean() < 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cv_bridge_and_numpy_agree(encoding: str) -> None:
    try:
        bridge = CvBridge()
    except Exception as error:
        assert bridge_name() == "numpy"
        pytest.skip(f"ROS 2's cv_bridge is not installed: {error!r}")
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    for padding in (0, 1, 12):
        message = image_message(image, 1, encoding=encoding)
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, -1)
        message.data = np.pad(rows, ((0, 0), (0, padding))).tobytes()
        message.step += padding
        np.testing.assert_array_equal(bridge.to_rgb(message), NumpyBridge().to_rgb(message))
    message.data = message.data[:20]
    for either in (bridge, NumpyBridge()):
        with pytest.raises(FrameError):
            either.to_rgb(message)


def test_cv_bridge_of_ros_1_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ros1Bridge:
        def imgmsg_to_cv2(self, message: object, encoding: str) -> object:
            raise TypeError("'array.array' object is not a string")

    ros1 = types.ModuleType("cv_bridge")
    ros1.CvBridge = Ros1Bridge
    monkeypatch.setitem(sys.modules, "cv_bridge", ros1)
    assert choose_bridge().name == "numpy"


def test_frame_rate_is_limited_by_stamp() -> None:
    intake = FrameIntake("front", max_rate=10.0)
    image = red_box_image(1, 1, 2, 2)
    stamps = [SECOND + i * SECOND // 30 for i in range(60)]  # two seconds at 30 Hz
    frames = [frame for s in stamps if (frame := intake.read(image_message(image, s)))]
    assert len(frames) == 20
    assert intake.counts.received == 60
    assert intake.counts.skipped == 40
    assert intake.counts.dropped == 0
    assert (
        intake.read(image_message(image, SECOND // 2)) is not None
    )  # the stamp jumped back: not skipped
    assert frames[0].frame_id == "optical"


def test_new_image_size_is_accepted_after_consecutive_frames() -> None:
    intake = FrameIntake("front")
    image = red_box_image(1, 1, 2, 2)
    small = np.ascontiguousarray(image[:50, :50])
    stamp = SECOND
    assert intake.read(image_message(image, stamp))
    for i in range(SIZE_CHANGE_FRAMES - 1):
        with pytest.raises(FrameError, match="a frame of 50x50 in a stream of 396x297"):
            intake.read(image_message(small, stamp + i + 1))
    assert intake.read(image_message(small, stamp + 100)) is not None
    assert intake.counts.resized == SIZE_CHANGE_FRAMES - 1
    with pytest.raises(FrameError, match="a frame of 396x297 in a stream of 50x50"):
        intake.read(image_message(image, stamp + 101))


def test_parameter_file_lists_every_parameter_with_its_default() -> None:
    import yaml

    path = ROOT / "config" / "grounding.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    defaults = {f.name: f.default for f in fields(NodeParameters)}
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()} == defaults
    # rclpy infers types from the default and from the file: 1 is not 1.0.
    assert {k: type(v) for k, v in values.items() if not isinstance(v, list)} == {
        k: type(v) for k, v in defaults.items() if not isinstance(v, tuple)
    }


def test_parameter_file_describes_every_parameter_as_declared() -> None:
    descriptions, comment = {}, []
    for line in (ROOT / "config" / "grounding.yaml").read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# "):
            comment.append(text[2:])
            continue
        descriptions[text.partition(":")[0]] = " ".join(comment)
        comment = []
    for field in fields(NodeParameters):
        live = "(live) " if field.metadata["live"] else ""
        assert descriptions[field.name] == live + field.metadata["description"]


def test_node_reference_lists_every_parameter_with_its_default() -> None:
    import yaml

    text = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")
    table = text[text.index("| parameter | default | live |") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    documented = {name.strip("`"): (default.strip("`"), live) for name, default, live, _ in rows}
    assert set(documented) == {field.name for field in fields(NodeParameters)}
    for field in fields(NodeParameters):
        default, live = documented[field.name]
        value = yaml.safe_load(default)
        assert (tuple(value) if isinstance(value, list) else value) == field.default, field.name
        assert live == ("yes" if field.metadata["live"] else ""), field.name
