"""The simulator's clips written as ST-Align data and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.errors import ConfigError
from llava_st_ros.records import Modality
from llava_st_ros.simulation.simulator import simulate_clip, split_seed
from llava_st_ros.training.st_align.frames import read_frames
from llava_st_ros.training.st_align.sampler import RecordFile, read_records
from llava_st_ros.training.st_align.simulated import SUBSETS, SimulatedData, write_simulated

pytestmark = pytest.mark.renderer

DATA = SimulatedData(clips=2, num_frames=10, size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated")
    assert len(list(write_simulated(path, DATA))) == 2
    return path


def test_all_fifteen_subsets_exist_and_every_record_is_good(folder: Path) -> None:
    assert len(SUBSETS) == len(set(SUBSETS)) == 15
    files = [RecordFile(f"{subset}.json") for subset in SUBSETS]
    records, bad = read_records(files, folder, {"min_bad_records": 0})
    assert not bad.errors and all(records)
    for record in (r for subset in records for r in subset):
        assert len(read_frames(record, 10, 32).indices) == (
            1 if record.modality is Modality.IMAGE else 10
        )
    by_subset = dict(zip(SUBSETS, records))
    assert all(len(r.turns) >= 2 for r in by_subset["image_grounded_conversation"])
    assert all(len(r.turns) >= 2 for r in by_subset["temporal_grounded_conversation"])


def test_boxes_and_times_equal_the_simulators(folder: Path) -> None:
    """Compare an ELC answer's tube, from the numbers in the file alone, with the clip's boxes."""
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


def test_images_are_lossless_and_videos_complete(folder: Path) -> None:
    clip = simulate_clip(split_seed("train", 0), num_frames=10, size=64)
    files = [RecordFile("region_caption.json"), RecordFile("video_qa.json")]
    records, _ = read_records(files, folder, {})
    image = records[0][0]
    frame = int(Path(image.media).stem.split("-")[-1])
    read = read_frames(image, 10, 64)
    np.testing.assert_array_equal(read.images[0], resize(clip.frames[frame], 64, 64))
    read = read_frames(records[1][0], 10, 64)
    assert len(read.images) == 10
    assert np.abs(read.images[read.indices].astype(int) - clip.frames).mean() < 6


def test_a_second_run_resumes_and_other_settings_are_rejected(folder: Path) -> None:
    clip = folder / "clips/train-000000.json"
    before, others = clip.read_bytes(), (folder / "clips/train-000001.json").stat().st_mtime_ns
    conversation = (folder / "conversation.json").read_bytes()
    clip.unlink()
    list(write_simulated(folder, DATA))
    assert (
        clip.read_bytes() == before and (folder / "conversation.json").read_bytes() == conversation
    )
    assert (folder / "clips/train-000001.json").stat().st_mtime_ns == others
    assert not list(folder.rglob("*.part*"))
    with pytest.raises(ConfigError, match="choose another folder"):
        list(write_simulated(folder, SimulatedData(clips=2, num_frames=12, size=64)))


@pytest.mark.parametrize("change", [{"split": "tset"}, {"first": 10**9}, {"clips": 10**9}])
def test_a_split_without_the_clips_is_rejected_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        next(write_simulated(tmp_path / "new", replace(DATA, **change)))
    assert not (tmp_path / "new").exists()
