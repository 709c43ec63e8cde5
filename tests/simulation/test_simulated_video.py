"""Videos at camera rate and the bags written from them."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.annotations.records import AnnotatedCamera
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.media.bags import Bag
from llava_st_ros.records import NANOSECONDS, Span
from llava_st_ros.simulation import bag_writer
from llava_st_ros.simulation.bag_writer import DEFAULT_START, write_bag
from llava_st_ros.simulation.phrasing import event_sentence
from llava_st_ros.simulation.simulator import SimulatedClip, simulate_video, split_seed

pytestmark = pytest.mark.renderer


@pytest.fixture(scope="module")
def video() -> SimulatedClip:
    return simulate_video(split_seed("test", 0), duration=20.0, fps=6.0, size=96)


@pytest.fixture(scope="module")
def bag(video, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "new" / "table"
    write_bag(video, path, "/cam/compressed", "cam_optical")
    return path


def test_a_video_has_an_event_for_each_of_three_objects(video) -> None:
    assert video.frames.shape == (120, 96, 96, 3)
    assert video.boxes.shape == (120, 3, 4)
    np.testing.assert_allclose(np.diff(video.stamps), 1 / 6)
    assert len(video.events) == 4
    assert len({event.kind for event in video.events}) == 4
    assert {event.subject for event in video.events} == {0, 1, 2}
    ends = [event.span for event in video.events]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
    for event in video.events:
        seconds = (event.span[1] - event.span[0]) / 6
        assert 0.3 <= seconds <= 6
        path = video.boxes[event.span[0] - 1 : event.span[1] + 1, event.subject] * 96
        assert np.abs(path - path[0]).max() > 4


def test_a_video_is_reproducible_from_its_seed(video) -> None:
    again = simulate_video(video.seed, duration=20.0, fps=6.0, size=96)
    assert (again.frames == video.frames).all()
    assert again.events == video.events


def test_too_short_videos_are_rejected() -> None:
    with pytest.raises(ConfigError, match="at least 10 s"):
        simulate_video(0, duration=3.0)


def test_the_bag_has_the_frames_with_their_stamps(video, bag) -> None:
    assert {p.suffix for p in bag.iterdir()} == {".yaml", ".mcap", ".json"}
    read = Bag(bag)
    topic = read.image_topic()
    assert topic.name == "/cam/compressed"
    images = list(read.images(topic))
    assert len(images) == len(video.frames)
    for image, frame, seconds in zip(images, video.frames, video.stamps):
        assert image.stamp == image.recorded == DEFAULT_START + round(seconds * NANOSECONDS)
        assert image.frame_id == "cam_optical"
        assert image.message.format == "jpeg"
        decoded = cv2.imdecode(image.message.data, cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(decoded.astype(int) - frame).mean() < 4


def test_the_annotations_equal_the_videos_ground_truth(video, bag) -> None:
    truth = read_annotations(annotation_path(bag))
    assert truth.notes == ()
    assert truth.cameras == (AnnotatedCamera("/cam/compressed", 96, 96),)
    stamps = [DEFAULT_START + round(seconds * NANOSECONDS) for seconds in video.stamps]
    for index, item in enumerate(truth.objects):
        assert item.label == video.objects[index].name
        visible = [s for s, shown in zip(stamps, video.is_visible[:, index]) if shown]
        assert list(item.boxes) == visible and item.keyframes == set(visible)
        for frame, stamp in enumerate(stamps):
            if stamp in item.boxes:
                box = item.boxes[stamp]
                corners = (box.x1, box.y1, box.x2, box.y2)
                np.testing.assert_allclose(corners, video.boxes[frame, index], atol=1e-5)
    assert len(truth.queries) == 3
    for query in truth.queries:
        (item,) = truth.objects_of(query)
        described = {
            Span(stamps[event.span[0]], stamps[event.span[1]])
            for event in video.events
            if event_sentence(event, video.objects) == query.text
            and truth.objects[event.subject] is item
        }
        assert described and set(query.spans) == described


def test_a_bag_is_never_overwritten(video, bag) -> None:
    before = (annotation_path(bag)).read_bytes()
    with pytest.raises(DataError, match="exists"):
        write_bag(video, bag)
    assert (annotation_path(bag)).read_bytes() == before


def test_a_bag_that_cannot_be_written_leaves_nothing(video, tmp_path, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bag_writer, "write_annotations", fail)
    with pytest.raises(DataError, match=r"cannot write .*bag: disk full"):
        write_bag(video, tmp_path / "bag")
    assert list(tmp_path.iterdir()) == []
