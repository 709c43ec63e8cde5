"""The simulator's clips written as ST-Align data and read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import Modality
from llava_st_ros.simulation.simulator import simulate_clip, split_seed
from llava_st_ros.training.st_align.media import read_media
from llava_st_ros.training.st_align.mix import Part, read_mix
from llava_st_ros.training.st_align.simulated import ALL_FAMILIES, SimulatedData, write_simulated

DATA = SimulatedData(clips=2, num_frames=10, size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated")
    assert len(list(write_simulated(path, DATA))) == 2
    return path


def test_all_fifteen_tasks_are_there_and_every_record_is_good(folder: Path) -> None:
    assert len(ALL_FAMILIES) == len(set(ALL_FAMILIES)) == 15
    parts = [Part(f"{family}.json") for family in ALL_FAMILIES]
    records, bad = read_mix(parts, folder, {"least": 0})
    assert not bad.found and all(records)
    for record in (r for part in records for r in part):
        assert len(read_media(record, 10, 32).places) == (
            1 if record.modality is Modality.IMAGE else 10
        )
    talks = dict(zip(ALL_FAMILIES, records))
    assert all(len(r.turns) >= 2 for r in talks["image_grounded_conversation"])
    assert all(len(r.turns) >= 2 for r in talks["temporal_grounded_conversation"])


def test_boxes_and_times_are_the_simulators(folder: Path) -> None:
    """The tube of an ELC answer, from the file's numbers alone, against the clip's boxes."""
    clip = simulate_clip(split_seed("train", 1), num_frames=10, size=64)
    events = {event.span: event.subject for event in clip.events}
    found = json.loads((folder / "event_localization_and_captioning.json").read_text())
    found = [v["variables"] for v in found if v["video"] == "videos/train-000001.mp4"]
    assert len(found) == len(events)
    for values in found:
        end, *times = values["temporal_output_locations"]
        first, last = round(times[0] * 9), round(end * 9)
        assert values["temporal_input_locations"] == [pytest.approx(first / 9, abs=1e-6)]
        x = np.reshape(values["spatial_width_output_locations"], (-1, 2))
        y = np.reshape(values["spatial_height_output_locations"], (-1, 2))
        truth = clip.boxes[first : last + 1, events[first, last]]
        boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
        np.testing.assert_allclose(boxes, truth, atol=1e-6)


def test_pictures_are_lossless_and_videos_whole(folder: Path) -> None:
    clip = simulate_clip(split_seed("train", 0), num_frames=10, size=64)
    records, _ = read_mix([Part("region_caption.json"), Part("video_qa.json")], folder, {})
    picture = records[0][0]
    frame = int(Path(picture.media).stem.split("-")[-1])
    media = read_media(picture, 10, 64)
    np.testing.assert_array_equal(media.images[0], resize(clip.frames[frame], 64, 64))
    media = read_media(records[1][0], 10, 64)
    assert len(media.images) == 10
    assert np.abs(media.images[media.places].astype(int) - clip.frames).mean() < 6


def test_a_second_run_goes_on_and_other_settings_are_refused(folder: Path) -> None:
    clip = folder / "clips/train-000000.json"
    before, others = clip.read_bytes(), (folder / "clips/train-000001.json").stat().st_mtime_ns
    talk = (folder / "conversation.json").read_bytes()
    clip.unlink()
    list(write_simulated(folder, DATA))
    assert clip.read_bytes() == before and (folder / "conversation.json").read_bytes() == talk
    assert (folder / "clips/train-000001.json").stat().st_mtime_ns == others
    assert not list(folder.rglob("*.part*"))
    with pytest.raises(ConfigError, match="name another folder"):
        list(write_simulated(folder, SimulatedData(clips=2, num_frames=12, size=64)))
